// Package report makes the page that shows a run: one HTML file, readable
// offline, on paper and at a phone's width, with everything in it. It asks no
// network for anything (the page's own policy forbids it) and needs no script,
// except for porcupine's picture, which is a page of its own inside, in a frame
// that can reach nothing outside.
//
// [Write] is a pure function of a history and of what the checkers found in it:
// the same gives the same bytes. So a page can be made again from a history,
// wherever that came from.
//
// What is drawn is computed here from the history alone (rates, latencies,
// answers of each node); what is judged, and why, is told by the result, word
// for word. A history of many operations is thinned for drawing, and the page
// says so; the slowest operation of each moment always stays.
//
// Charts are SVG shapes stretched to the width there is, with labels laid over
// them as text, so that letters keep their size on every screen.
package report
