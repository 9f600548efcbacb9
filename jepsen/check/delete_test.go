package check

import (
	"testing"

	"github.com/capstan-kv/capstan/jepsen/history"
)

func TestDeleteStories(t *testing.T) {
	d := of("delete")
	a, gone := d.put("a", 0, 1, at("4-1-n1-a")), d.del(2, 3, at("5-2-n1-a"))
	old := d.put("e", 0, 1, at("0-3-n2-a"), receipt("wr_1", 4), node("n2"))
	superseded := history.Fate{Receipt: "wr_1", Fate: "superseded", Version: "5-2-n1-a"}
	listed := func(h *history.History) *history.History {
		h.Conflicts = append(h.Conflicts, history.Conflict{Key: "delete/0", Value: "e", Losing: "0-3-n2-a", Winning: "5-2-n1-a", Cause: "stale-base"})
		return h
	}
	tell(t, "delete", []story{
		{name: "deleted", h: told(a, gone, d.get("", 4, 5))},
		{name: "written again", h: told(a, gone, d.put("b", 4, 5), d.get("b", 6, 7))},
		{name: "the write was under way", h: told(d.put("a", 0, 3), d.del(2, 4), d.get("a", 5, 6))},
		{name: "the write may come later", h: told(d.put("a", 0, 1, info), gone, d.get("", 4, 5), d.get("a", 6, 7))},
		{name: "an eventual read is behind", h: told(a, gone, d.get("a", 4, 5, eventual, node("n3"), at("4-1-n1-a")))},
		{name: "what was tentative is superseded", h: listed(fated(told(old, gone, d.get("", 4, 5), d.get("", 6, 7, eventual, final)), superseded))},
		{name: "back", h: told(a, gone, d.get("", 4, 5), d.get("a", 6, 7)), checker: "no resurrection", why: "a was acknowledged, then deleted, and is read 3s after the delete"},
		{name: "back, by an eventual write", h: told(old, gone, d.get("e", 6, 7, at("9-3-n2-a"))), checker: "no resurrection", why: "e was acknowledged"},
		{name: "back in the end", h: told(a, gone, d.get("a", 8, 9, eventual, final, node("n3"))), checker: "no resurrection", why: "read 5s after"},
		{name: "not deleted", h: told(a, gone, d.get("a", 4, 5)), checker: "linearizable", why: "no order"},
		{name: "won over the delete", h: told(old, gone, d.get("e", 6, 7, at("9-3-n2-a"))), checker: "overwrites", why: "overwrote"},
		{name: "never written", h: told(a, gone, d.get("z", 4, 5, eventual)), checker: "answers", why: "never written"},
		{name: "superseded by what it had heard of", h: listed(fated(told(d.put("e", 0, 1, at("0-3-n2-a"), receipt("wr_1", 8), node("n2")), gone), superseded)), checker: "superseded", why: "its base is 8"},
		{name: "superseded, unlisted", h: fated(told(old, gone), superseded), checker: "fates", why: "no list"},
	})
}

func TestDeleteIsVoidWithoutOne(t *testing.T) {
	d := of("delete")
	if r := Check(told(d.put("a", 0, 1), d.get("a", 2, 3)), Options{Least: 1}); r.Verdict != Void {
		t.Errorf("%s: %s", r.Verdict, r.Sentence)
	}
	// A read that came at rest is as good as a linearizable one, but only then.
	h := told(d.put("a", 0, 1), d.del(2, 3), d.get("a", 8, 9, eventual, final))
	h.End.Settled = false
	if r := Check(h, Options{Least: 1}); r.Verdict == Violated {
		t.Errorf("%v", r.Findings)
	}
}
