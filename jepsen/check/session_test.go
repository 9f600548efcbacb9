package check

import (
	"testing"

	"github.com/capstan-kv/capstan/jepsen/history"
)

// More changes of an operation.

func eventual(o *history.Op) { o.Level = history.Eventual }

// node answers, by its name; its id has an a behind it.
func node(name string) change {
	return func(o *history.Op) { o.Node, o.NodeID = name, name+"-a" }
}

func in(session string) change {
	return func(o *history.Op) { o.Session = session }
}

// receipt of an eventual write, and what its node had heard of.
func receipt(r string, base uint64) change {
	return func(o *history.Op) { o.Level, o.Receipt, o.Base = history.Eventual, r, base }
}

func (w of) del(from, to int, more ...change) history.Op {
	return operation(string(w), history.Linearizable, history.Delete, string(w)+"/0", "", from, to, more...)
}

// fated adds how eventual writes ended: the text form of fate and version.
func fated(h *history.History, fates ...history.Fate) *history.History {
	h.Fates = fates
	return h
}

func TestSessionStories(t *testing.T) {
	s := of("session")
	a := s.put("a", 0, 1, in("s"), at("4-1-n1-a"))
	b := s.put("b", 2, 3, in("s"), at("5-2-n1-a"))
	tell(t, "session", []story{
		{name: "one that hops", h: fated(told(
			a, s.get("a", 2, 3, in("s"), at("4-1-n1-a"), eventual, node("n2")),
			s.put("c", 4, 5, in("s"), at("0-7-n2-a"), receipt("wr_1", 4), node("n2")),
			s.get("c", 6, 7, in("s"), at("9-7-n2-a")),
		), history.Fate{Receipt: "wr_1", Fate: "committed", Version: "9-7-n2-a"})},
		{name: "another session may be behind", h: told(a, b, s.get("a", 4, 5, in("t"), at("4-1-n1-a"), eventual))},
		{name: "at the same time may be behind", h: told(a, s.put("b", 2, 9, in("s"), at("5-2-n1-a")), s.get("a", 3, 4, in("s"), at("4-1-n1-a"), eventual))},
		{name: "refused, being behind", h: told(a, b, s.get("", 4, 5, in("s"), eventual, failed))},
		{
			name: "superseded by a write that nobody made", h: conflict(fated(told(a,
				s.put("c", 4, 5, in("s"), at("0-7-n2-a"), receipt("wr_1", 3), node("n2"))),
				history.Fate{Receipt: "wr_1", Fate: "superseded", Version: "8-9-n1-a"}), "session/0", "c", "0-7-n2-a", "8-9-n1-a", "stale-base"),
			checker: "superseded", why: "which nobody wrote",
		},
		{name: "own write not seen", h: told(a, b, s.get("a", 4, 5, in("s"), at("4-1-n1-a"), eventual)), checker: "read your writes", why: "session s knows b"},
		{
			name: "own tentative write not seen at another node", h: told(a,
				s.put("c", 2, 3, in("s"), at("0-7-n2-a"), receipt("wr_1", 4), node("n2")), s.get("a", 4, 5, in("s"), at("4-1-n1-a"), eventual, node("n3"))),
			checker: "read your writes", why: "session s knows c",
		},
		{
			name: "back in time", h: told(a, s.put("b", 2, 3, at("5-2-n1-a")), s.get("b", 4, 5, in("t"), at("5-2-n1-a"), eventual), s.get("a", 6, 7, in("t"), at("4-1-n1-a"), eventual, node("n3"))),
			checker: "monotonic reads", why: "session t knows b",
		},
		{
			name: "writes the other way round", h: told(s.put("a", 0, 1, in("s"), at("9-1-n1-a")), s.put("b", 2, 3, in("s"), at("5-2-n1-a"))),
			checker: "monotonic writes", why: "session s knows a",
		},
		{
			name: "an eventual write that has not heard of the one before", h: told(a, s.put("c", 2, 3, in("s"), at("0-7-n2-a"), receipt("wr_1", 3), node("n2"))),
			checker: "monotonic writes", why: "session s knows a",
		},
		{
			name: "a write before what was read", h: told(s.put("a", 0, 1, at("9-1-n1-a")), s.get("a", 2, 3, in("s"), at("9-1-n1-a")), s.put("b", 4, 5, in("s"), at("5-2-n1-a"))),
			checker: "writes follow reads", why: "session s knows a",
		},
		{name: "never written", h: told(a, s.get("z", 2, 3, in("s"))), checker: "answers", why: "never written"},
		{
			name: "a node forgets", h: told(s.put("c", 2, 3, at("0-7-n2-a"), receipt("wr_1", 4), node("n2")), s.get("", 4, 5, eventual, node("n2"))),
			checker: "own writes", why: "n2-a took c and then shows nothing",
		},
		{
			name: "nobody knows its fate", h: told(a, s.put("c", 2, 3, at("0-7-n2-a"), receipt("wr_1", 4), node("n2"))),
			checker: "fates", why: "nothing is known",
		},
		{
			name: "superseded and not listed", h: fated(told(a, s.put("c", 2, 3, at("0-7-n2-a"), receipt("wr_1", 3), node("n2"))),
				history.Fate{Receipt: "wr_1", Fate: "superseded", Version: "4-1-n1-a"}),
			checker: "fates", why: "no list of conflicts",
		},
	})
}
