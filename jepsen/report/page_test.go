//go:build linux

package report

import (
	"bytes"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// keepVariable is a directory to keep the pages and their screenshots in, for who
// changes how they look.
const keepVariable = "CAPSTAN_KEEP_REPORTS"

// A page is readable on every screen: nothing is wider than the screen, nothing
// is asked of the network, and nothing fails.
func TestPageInABrowser(t *testing.T) {
	b := newBrowser(t)
	dir := t.TempDir()
	if keep := os.Getenv(keepVariable); keep != "" {
		dir = keep
	}
	for name, p := range pages(t) {
		file := filepath.Join(dir, name+".html")
		must(t, os.WriteFile(file, p, 0o644))
		at := (&url.URL{Scheme: "file", Path: file}).String()
		for _, wide := range []int{360, 1280} {
			for _, dark := range []bool{false, true} {
				b.open(at, wide, dark)
				var needed int
				b.eval(`document.documentElement.scrollWidth`, &needed)
				if needed > wide {
					var who string
					b.eval(`[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 120)).slice(0, 5).join("\n")`, &who)
					t.Errorf("%s at %d pixels needs %d:\n%s", name, wide, needed, who)
				}
				if name == "violated" {
					b.sees(`new Promise(done => {
						addEventListener("message", m => done(m.data === "drawn"))
						setTimeout(() => done(false), 30000)
						document.querySelectorAll("details").forEach(d => { d.open = true })
						document.querySelector("iframe").scrollIntoView()
					})`, "the picture of a key is not drawn")
				}
				shot := b.screenshot()
				if !bytes.HasPrefix(shot, []byte("\x89PNG")) || len(shot) < 20_000 {
					t.Errorf("%s at %d pixels is no picture: %d bytes", name, wide, len(shot))
				}
				for _, c := range b.complaints(at) {
					t.Errorf("%s at %d pixels: %s", name, wide, c)
				}
				if os.Getenv(keepVariable) != "" {
					shade := map[bool]string{true: "dark", false: "light"}[dark]
					must(t, os.WriteFile(filepath.Join(dir, name+"-"+shade+map[int]string{360: "-phone", 1280: "-desk"}[wide]+".png"), shot, 0o644))
				}
			}
		}
	}
}

// pages are those of runs that ended in each way, and of the emptiest there is.
func pages(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	write := func(name string, h *history.History, r *check.Result, o Options) {
		var page bytes.Buffer
		must(t, Write(&page, h, r, o))
		all[name] = page.Bytes()
	}
	h := aRun(5000)
	o := Options{
		Repeat: []string{"capstan-jepsen", "run", "--workload", "mixed,register", "--nemesis", "cut-halves,pause", "--time-limit", "1m", "--seed", "7", "--schedule", "store/20261125-170000-7/schedule.jsonl"},
		Files:  []File{{"the history", "history.jsonl"}, {"the result", "results.json"}, {"n1's log", "nodes/n1.log"}},
	}
	write("holds", h, aResult(h, check.Holds), o)
	o.Picture = &Picture{Key: "register/3", HTML: `<!doctype html><body style="width:3000px;background:#eef"><span>a "picture"</span><script>
		const wide = document.querySelector("span").getBoundingClientRect().width
		parent.postMessage(wide > 20 ? "drawn" : "it measures " + wide, "*")</script>`}
	write("violated", h, aResult(h, check.Violated), o)
	planted := aRun(300)
	planted.Run.Planted = "skip-base"
	write("void", planted, aResult(planted, check.Void), Options{})
	broken := &history.History{Run: history.Run{Format: history.Format}}
	write("empty", broken, &check.Result{Verdict: check.Void, Sentence: "Could not tell: nothing was done.", Void: []string{"the run broke off"}}, Options{})
	return all
}

// What a browser would fetch, or run, is nowhere in a page: a history is text
// of others.
func TestPageIsInert(t *testing.T) {
	h := aRun(100)
	evil := `"><script>alert(1)</script><img src=http://example.com/x>`
	h.Run.Planted, h.Run.Version = evil, evil
	h.Faults[0].What, h.Faults[0].Kind = evil, evil
	h.Ops[0].Node = evil
	h.Notes[0].Text = evil
	h.Troubles = []history.Trouble{{Node: evil, What: evil}}
	r := aResult(h, check.Violated)
	r.Sentence, r.Findings[0].Why, r.Findings[0].Ops[0].Key = evil, evil, evil
	r.Void = []string{evil}
	var page bytes.Buffer
	must(t, Write(&page, h, r, Options{Repeat: []string{evil}, Files: []File{{evil, "x"}}, Picture: &Picture{Key: evil, HTML: evil}}))
	for _, never := range []string{"<script", "<img", "<link rel=\"stylesheet"} {
		if strings.Contains(page.String(), never) {
			t.Errorf("the page has %s", never)
		}
	}
	for _, path := range []string{"", "/etc/passwd", "http://example.com", "javascript:alert(1)"} {
		if err := Write(&bytes.Buffer{}, h, r, Options{Files: []File{{"x", path}}}); err == nil {
			t.Errorf("a link to %q", path)
		}
	}
}
