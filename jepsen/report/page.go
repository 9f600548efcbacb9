package report

import (
	"cmp"
	"fmt"
	"html/template"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// mostNotes that a page lists.
const mostNotes = 200

// page is all that the template shows.
type page struct {
	Style    template.CSS
	Title    string
	Verdict  string // for the style sheet: holds, violated, void
	Word     string
	Mark     string
	Icon     template.URL
	Sentence string
	Meta     []string
	Planted  string
	Void     []string

	Findings     []finding
	FindingsMore int
	Tiles        []tile

	Ticks    []tick
	Bands    []band
	Lanes    int
	Families []string
	Calm     *band // from the end of the load on
	Moment   string
	Rate     rateChart
	Latency  []latencyChart
	Strips   []stripGroup
	AnyNode  bool
	Ledger   *ledger
	Measured []histogram // how old answers were
	Stale    []histogram // how old they said that they may be
	Fates    []fates

	Judged []judged
	Faults []fault
	Unfelt []string

	Facts     []fact
	Schedule  string
	Events    int
	Repeat    string
	Files     []File
	Picture   *Picture
	Troubles  []history.Trouble
	Notes     []note
	NotesMore int
}

type fact struct{ Name, Value string }

type tile struct{ Value, Name, Class string }

// stripGroup is the strips of one level.
type stripGroup struct {
	Level  string
	Strips []strip
}

// judged is what the checkers of one workload said, or of the whole run.
type judged struct {
	Name     string
	What     string
	Checkers []judgement
}

type judgement struct {
	Mark, Class, Name, What, Detail, Seen, Found string
}

// fault is one that was carried out, as a line of text.
type fault struct {
	Number, When, For string
	Kind, Family      string
	What, Effect      string
	Felt, Healed      bool
}

type note struct{ When, Text string }

func newPage(h *history.History, r *check.Result, o Options) *page {
	a := newAxis(h.Length)
	p := &page{
		Style: template.CSS(pageCSS), Planted: h.Run.Planted, Void: r.Void,
		Ticks: a.ticks(), Moment: span(a.moment), Rate: newRateChart(h, a), Latency: latencyCharts(h, a),
		Measured: measured(r.Stats.Staleness), Stale: histograms(h), Fates: allFates(r.Stats), Unfelt: r.Unfelt, Repeat: Quote(o.Repeat), Files: o.Files, Picture: o.Picture,
		Troubles: h.Troubles,
	}
	p.Verdict, p.Word, p.Mark = words(r.Verdict)
	p.Sentence = sentence(p.Word, r.Sentence)
	p.Title = fmt.Sprintf("%s: %s", p.Word, strings.Join(h.Run.Workloads, ", "))
	if len(h.Run.Nemeses) > 0 {
		p.Title += " under " + strings.Join(h.Run.Nemeses, ", ")
	}
	p.Icon = icon(p.Verdict)
	p.Findings, p.FindingsMore = findings(r)
	p.Tiles = tiles(h, a)
	p.Bands, p.Lanes = bands(h.Faults, a)
	for _, b := range p.Bands {
		if !slices.Contains(p.Families, b.Family) {
			p.Families = append(p.Families, b.Family)
		}
	}
	if limit := h.Run.TimeLimit; limit > 0 && limit < h.Length {
		x := a.x(limit)
		p.Calm = &band{Left: percent(x), Width: percent(width - x), X: x, W: width - x}
	}
	all := strips(h, a)
	p.AnyNode, p.Ledger = anyNode(all), newLedger(r.Stats.Availability)
	for _, s := range all {
		if n := len(p.Strips); n == 0 || p.Strips[n-1].Level != s.Level {
			p.Strips = append(p.Strips, stripGroup{Level: s.Level})
		}
		last := &p.Strips[len(p.Strips)-1]
		last.Strips = append(last.Strips, s)
	}
	p.Judged = judgements(r)
	for _, f := range h.Faults {
		p.Faults = append(p.Faults, newFault(f, a))
	}
	p.Facts = facts(h)
	p.Events = len(h.Run.Schedule)
	var schedule strings.Builder
	for _, line := range h.Run.Schedule {
		schedule.Write(line)
		schedule.WriteByte('\n')
	}
	p.Schedule = schedule.String()
	for i, n := range h.Notes {
		if i == mostNotes {
			p.NotesMore = len(h.Notes) - i
			break
		}
		p.Notes = append(p.Notes, note{clock(n.At), n.Text})
	}
	return p
}

// words of a verdict: its class in the style sheet, its headline, its sign.
func words(v check.Verdict) (class, word, mark string) {
	switch v {
	case check.Holds:
		return "holds", "Holds", "✓"
	case check.Violated:
		return "violated", "Violated", "✗"
	}
	return "void", "Could not tell", "?"
}

// sentence is without the word that stands above it as a headline.
func sentence(word, s string) string {
	rest, ok := strings.CutPrefix(s, word+": ")
	if !ok || rest == "" {
		return s
	}
	first, size := utf8.DecodeRuneInString(rest)
	return string(unicode.ToUpper(first)) + rest[size:]
}

// icon of the page's tab, in the verdict's colour.
func icon(verdict string) template.URL {
	colour := map[string]string{"holds": "1a7f4b", "violated": "c4252d", "void": "9a6700"}[verdict]
	return template.URL("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E%3Ccircle cx='4' cy='4' r='4' fill='%23" + colour + "'/%3E%3C/svg%3E")
}

func tiles(h *history.History, a axis) []tile {
	var counts [classes]int
	for i := range h.Ops {
		counts[classOf(&h.Ops[i])]++
	}
	felt := 0
	for _, f := range h.Faults {
		if f.Felt {
			felt++
		}
	}
	t := []tile{
		{number(len(h.Ops)), "operations", ""},
		{number(counts[answered]), "answered", "answered"},
		{number(counts[refused]), "refused, no effect", "refused"},
		{number(counts[unknown]), "outcome unknown", "unknown"},
	}
	faults := tile{Value: "none", Name: "faults"}
	if len(h.Faults) > 0 {
		faults = tile{Value: fmt.Sprintf("%d of %d", felt, len(h.Faults)), Name: "faults were felt"}
	}
	return append(t, faults, tile{span(a.length), "from first to last", ""})
}

// number groups its digits.
func number(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

func facts(h *history.History) []fact {
	r := &h.Run
	list := []fact{
		{"workloads", strings.Join(r.Workloads, ", ")},
		{"nemeses", cmp.Or(strings.Join(r.Nemeses, ", "), "none")},
		{"seed", strconv.FormatUint(r.Seed, 10)},
		{"lab", labs[r.Lab]},
		{"nodes", fmt.Sprintf("%d: %s", len(r.Nodes), strings.Join(r.Nodes, ", "))},
		{"partitions", fmt.Sprintf("%d, each on %d nodes", r.Partitions, r.ReplicationFactor)},
		{"time limit", fmt.Sprintf("%s, then final operations until %s", span(r.TimeLimit), span(h.Length))},
		{"election timeout", span(r.ElectionTimeout)},
		{"program", r.Binary},
		{"its version", r.Version},
		{"planted fault", r.Planted},
		{"capstan-jepsen", r.Harness},
		{"began", r.Began.UTC().Format("2006-01-02 15:04:05 UTC")},
	}
	if r.Lab != "" && labs[r.Lab] == "" {
		list[3].Value = r.Lab
	}
	var known []fact
	for _, f := range list {
		if f.Value != "" {
			known = append(known, f)
		}
	}
	return known
}

// labs by kind, for a reader who does not know the words.
var labs = map[string]string{
	"namespaces": "namespaces: each node a host of its own, every link between them under control",
	"loopback":   "loopback: processes on 127.0.0.x, no control over links; cuts are made inside the program",
}

func newFault(f history.Band, a axis) fault {
	return fault{
		Number: strconv.Itoa(f.Number), When: clock(f.From), For: span(end(f, a) - f.From), Kind: f.Kind, Family: family(f.Kind),
		What: cmp.Or(f.What, strings.Join(f.Nodes, ", ")), Effect: f.Effect, Felt: f.Felt, Healed: f.Healed,
	}
}

func judgements(r *check.Result) (all []judged) {
	one := func(name, what string, checkers []check.CheckerResult) {
		if len(checkers) == 0 {
			return
		}
		j := judged{Name: name, What: what}
		for _, c := range checkers {
			line := judgement{Mark: "✓", Class: "holds", Name: c.Name, What: c.What, Detail: c.Detail}
			if !c.OK {
				line.Mark, line.Class = "✗", "violated"
				if undecided(r, name, c.Name) {
					line.Mark, line.Class = "?", "void"
				}
			}
			if c.Found > 0 {
				line.Found = number(c.Found)
			}
			if c.Seen > 0 {
				line.Seen = number(c.Seen)
			}
			j.Checkers = append(j.Checkers, line)
		}
		all = append(all, j)
	}
	for _, w := range r.Workloads {
		c := w.Counts
		one(w.Name, fmt.Sprintf("%s ok, %s fail, %s info", number(c.OK), number(c.Fail), number(c.Info+c.Open)), w.Checkers)
	}
	one("", "the run as a whole", r.Run)
	return all
}

// undecided: all that a checker has to say against it is that it could not decide.
func undecided(r *check.Result, workload, checker string) bool {
	some := false
	for _, f := range r.Findings {
		if f.Workload == workload && f.Checker == checker {
			if !f.Undecided {
				return false
			}
			some = true
		}
	}
	return some
}

// Quote is a command as a shell reads it.
func Quote(words []string) string {
	var quoted []string
	for _, w := range words {
		if w == "" || strings.ContainsFunc(w, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,./:@%", r)
		}) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		quoted = append(quoted, w)
	}
	return strings.Join(quoted, " ")
}
