//go:build linux

package main

import (
	"regexp"
	"strings"
	"testing"
)

// tourNotes is what a run has learnt to stand for the names in the tour's text:
// receipts and versions, which differ from run to run. Once learnt, one
// stands for one.
type tourNotes struct{ real map[string]string }

var (
	tourName      = regexp.MustCompile(`wr_\w+|\b\d+-\d{18}-n\d-[a-z0-9]{4}\b`)
	tourTime      = regexp.MustCompile(`\b\d+(\\\.\d)?s\b`)
	tourLed       = regexp.MustCompile(`(committed   \S+  by )n\d`)
	tourPartition = regexp.MustCompile(`partition \d+`)
	tourGap       = regexp.MustCompile(` {2,}`)
	tourTableTop  = "KEY  "
)

// command is a line of the tour as this run has to type it.
func (n *tourNotes) command(line string) string {
	return tourName.ReplaceAllStringFunc(line, func(name string) string {
		if known := n.real[name]; known != "" {
			return known
		}
		return name
	})
}

// pattern matches what the terminal has to show: the tour's words, but for
// times, the partition's number, the node that happens to lead, and for names that are not known yet.
// new lists those, in the order of the pattern's groups.
func (n *tourNotes) pattern(shows string) (match *regexp.Regexp, learns []string) {
	var out strings.Builder
	for line := range strings.Lines(shows) {
		at := 0
		for _, span := range tourName.FindAllStringIndex(line, -1) {
			out.WriteString(regexp.QuoteMeta(line[at:span[0]]))
			name := line[span[0]:span[1]]
			at = span[1]
			switch known := n.real[name]; {
			case known != "":
				out.WriteString(regexp.QuoteMeta(known))
			case strings.HasPrefix(name, "wr_"):
				out.WriteString(`(wr_[\w-]+)`)
				learns = append(learns, name)
			default:
				_, id, _ := strings.Cut(name, "-n")
				node := "[123]"
				if !strings.Contains(line, "  by n") {
					node = id[:1] // an eventual write has that of the node that took it
				}
				out.WriteString(`(\d+-\d+-n` + node + `-[a-z0-9]{4})`)
				learns = append(learns, name)
			}
		}
		out.WriteString(regexp.QuoteMeta(line[at:]))
	}
	placed := tourPartition.ReplaceAllString(out.String(), `partition \d+`)
	text := tourTime.ReplaceAllString(placed, `(?:\d+m)?\d+(?:\.\d)?s`)
	return regexp.MustCompile(`^` + text + `$`), learns
}

// TestClusterTourLevels walks the tour of the levels as a user does, once, at a
// terminal, on the cluster that the demo starts. Every word is as it is written
// down, and so are receipts and versions, in so far as they are the same ones.
func TestClusterTourLevels(t *testing.T) {
	t.Parallel()
	_, base := startWholeDemo(t)
	user := newTourist(t, demoNodes(3, base)[0].url())
	notes := &tourNotes{real: map[string]string{}}
	for _, step := range tourSteps(t, "levels.txt") {
		got, want := user.types(t, notes.command(step.command)), step.shows
		if strings.HasPrefix(want, tourTableTop) {
			aligned(t, got)
			// The columns are as wide as this run's versions are.
			got, want = tourGap.ReplaceAllString(got, "  "), tourGap.ReplaceAllString(want, "  ")
		}
		match, learns := notes.pattern(want)
		match = regexp.MustCompile(tourLed.ReplaceAllString(match.String(), "${1}n[123]"))
		found := match.FindStringSubmatch(got)
		if found == nil {
			t.Fatalf("$ %s\nshows\n%s\nwant\n%s\nthat is\n%s", step.command, got, step.shows, match)
		}
		for i, name := range learns {
			if again := notes.real[name]; again != "" && again != found[i+1] {
				t.Fatalf("$ %s\nshows two for %s:\n%s", step.command, name, got)
			}
			notes.real[name] = found[i+1]
		}
	}
}

// A pattern must match what it was made of, and no other words, or the walk
// proves nothing.
func TestTourPattern(t *testing.T) {
	notes := &tourNotes{real: map[string]string{}}
	for _, step := range tourSteps(t, "levels.txt") {
		match, learns := notes.pattern(step.shows)
		found := match.FindStringSubmatch(step.shows)
		if len(found) != len(learns)+1 {
			t.Errorf("%q does not match %s", step.shows, match)
			continue
		}
		for i, name := range learns {
			if found[i+1] != name {
				t.Errorf("learnt %q for %q", found[i+1], name)
			}
			notes.real[name] = name
		}
		for at, c := range step.shows {
			other := step.shows[:at] + "x" + step.shows[at+1:]
			if c >= 'a' && c <= 'z' && !tourName.MatchString(step.shows) && match.MatchString(other) {
				t.Errorf("%q matches %s", other, match)
			}
		}
	}
	if len(notes.real) != 10 {
		t.Errorf("learnt %d names: %v", len(notes.real), notes.real)
	}
	if known, _ := notes.pattern("superseded  by 14-117309442228224000-n1-k3f9\n"); known.MatchString("superseded  by 15-117309442228224000-n1-k3f9\n") {
		t.Error("another version than the one that was learnt matches")
	}
}

// aligned checks that each column of a table begins below its title.
func aligned(t *testing.T, text string) {
	t.Helper()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	starts := []int{0}
	for _, gap := range tourGap.FindAllStringIndex(lines[0], -1) {
		starts = append(starts, gap[1])
	}
	for _, line := range lines {
		for _, at := range starts {
			if at >= len(line) || line[at] == ' ' || at > 0 && line[at-2:at] != "  " {
				t.Errorf("a column does not begin at character %d of %q:\n%s", at, line, text)
			}
		}
	}
}
