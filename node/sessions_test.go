package node

import (
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/session"
	"github.com/capstan-kv/capstan/storage"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// What every replica holds goes without saying to a client, but not to the node
// that passes the answer on: it has to hear of the index.
func TestRelayedTokensAreWhole(t *testing.T) {
	s := &sessions{
		ring:       func() *control.State { return ringOf(4, "a") },
		everywhere: func(partition.ID) uint64 { return 10 },
	}
	saw := func(index uint64) *session.Token {
		token := &session.Token{}
		token.Saw(3, index)
		return token
	}
	for _, test := range []struct {
		index uint64
		of    *sessions
		empty bool
	}{{10, s, true}, {11, s, false}, {10, s.relayed(), false}} {
		text, err := test.of.token(saw(test.index))
		if err != nil || (text == "") != test.empty {
			t.Errorf("token of index %d: %q, %v", test.index, text, err)
		}
	}
}

// large is a token that just fits, of writes that nobody will ever decide, in
// another partition than p.
func large(t *testing.T, m *machine, bytes int) string {
	t.Helper()
	past := &session.Token{}
	var text string
	for n := uint64(2); past.Size() <= bytes; n += 2 {
		now, err := m.running().sessions.token(past.Clone())
		if err != nil {
			t.Fatal(err)
		}
		text = now
		past.Tentative(3, storage.Dot{Node: "n9-gone", Incarnation: 1, Sequence: n * n}, 1, 1)
	}
	return text
}

// A session that can not be told of a write does not make it.
func TestFullSessionWritesNothing(t *testing.T) {
	inCluster(t, 1, func(w *world) {
		n1, key := w.machines[0], keyIn(0, 4, 1)
		n1.mustWrite(ask{}, key, "before")
		for _, bytes := range []int{roomyToken, session.MaxTokenBytes - 1} {
			token := large(t, n1, bytes)
			for _, a := range []ask{{level: linearizable}, {level: eventual}} {
				a.talk = &talk{token}
				_, err := n1.write(a, key, "after")
				if bytes == roomyToken {
					if err != nil {
						t.Errorf("%v write with a token of %d bytes: %v", a.level, len(token), err)
					}
					n1.mustWrite(ask{}, key, "before")
					continue
				}
				w.refusal(err, replication.SessionBehind, replication.NotApplied)
				n1.mustRead(ask{}, key, "before")
			}
		}
	})
}

// A session that writes and never reads does not carry on with what was decided
// long ago.
func TestWritingSessionStaysSmall(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		const p = 0
		me := &talk{}
		for i := range 60 {
			m := w.machines[i%3]
			m.mustWrite(ask{talk: me, level: eventual}, keyIn(p, 4, i%7), "v")
			if i%10 == 9 {
				w.awaitNoBacklog()
			}
		}
		w.awaitNoBacklog()
		n1 := w.machines[0]
		r := n1.mustWrite(ask{talk: me, level: eventual}, keyIn(p, 4, 1), "last")
		past, err := n1.running().sessions.past(me.token)
		if err != nil {
			t.Fatal(err)
		}
		receipt, err := n1.running().sessions.receipt(r.GetReceipt())
		if err != nil {
			t.Fatal(err)
		}
		if open := past.Undecided(p); len(open) != 1 || open[0] != storage.RangeOf(receipt.Dot) {
			t.Errorf("the session waits for %v", open)
		}
	})
}

// A large token of writes that are decided meanwhile makes room by itself.
func TestLargeTokenIsTidied(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n1 := w.machines[0]
		past := &session.Token{}
		for i := 0; past.Size() <= roomyToken; i++ {
			p := partition.ID(i % 4)
			r := n1.mustWrite(ask{level: eventual}, keyIn(p, 4, i%50), "v")
			receipt, err := n1.running().sessions.receipt(r.GetReceipt())
			if err != nil {
				t.Fatal(err)
			}
			// Every other one, so that they stay apart.
			if i/4%2 == 0 {
				past.Tentative(p, receipt.Dot, receipt.Base, receipt.Timestamp)
			}
		}
		token, err := (&sessions{ring: n1.running().ring}).token(past)
		if err != nil {
			t.Fatal(err)
		}
		w.awaitNoBacklog()
		me := &talk{token}
		n1.mustWrite(ask{talk: me, level: eventual}, keyIn(0, 4, 1), "more")
		if len(me.token) > 1024 {
			t.Errorf("the token has %d bytes", len(me.token))
		}
	})
}

// What is held here answers alone only if nothing that the session has seen can
// win over it.
func TestMetByOwnWrite(t *testing.T) {
	dot := storage.Dot{Node: "a", Incarnation: 1, Sequence: 5}
	other := storage.RangeOf(storage.Dot{Node: "a", Incarnation: 1, Sequence: 4})
	write := &storage.Tentative{Dot: dot, Base: 10, Timestamp: 100}
	for _, test := range []struct {
		name      string
		want      want
		elsewhere want
		met       bool
	}{
		{"no session", want{}, want{}, true},
		{"it has seen less", want{highest: 100}, want{index: 10}, true},
		{"it has seen more of the log", want{highest: 100}, want{index: 11}, false},
		{"it has seen a later version", want{highest: 101}, want{index: 10}, false},
		{"this one is its own, and it has seen a later version of something", want{highest: 101, dots: []storage.DotRange{{Node: "a", Incarnation: 1, First: 4, Last: 6}}}, want{index: 10}, true},
		{"another one is its own, and it has seen a later version", want{highest: 101, dots: []storage.DotRange{other}}, want{index: 10}, false},
		{"a write of it is elsewhere", want{}, want{dots: []storage.DotRange{other}}, false},
	} {
		if met := test.want.metBy(write, test.elsewhere); met != test.met {
			t.Errorf("%s: met %v", test.name, met)
		}
	}
}

// What was left out of a token is covered by what this node has heard of for good;
// a node that has just joined covers nothing.
func TestWhatATokenDoesNotSay(t *testing.T) {
	codec := session.NewCodec("c", []byte("secret"))
	past := func(of *session.Token) *session.Token {
		text, err := codec.Encode(of)
		if err != nil {
			t.Fatal(err)
		}
		back, err := codec.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		return back
	}
	own := &storage.Tentative{Dot: storage.Dot{Node: "a", Incarnation: 1, Sequence: 5}, Base: 30}
	none, here, there, wrote := &session.Token{}, &session.Token{}, &session.Token{}, &session.Token{}
	here.Saw(3, 40)
	there.Saw(4, 40)
	wrote.Tentative(3, own.Dot, own.Base, 7)
	const all = ^uint64(0)
	for name, test := range map[string]struct {
		of           *session.Token
		covers, just uint64 // what a member of old wants, and one that has just joined
	}{
		"no session":                     {none, 0, 0},
		"one that knows the partition":   {here, 50, all}, // by a version lower than what it left out, perhaps
		"one that does not":              {there, 50, all},
		"one whose write is to be shown": {wrote, 0, 0},
	} {
		w := wanted(3, past(test.of))
		if got := w.unsaid(own, 50, true); got != test.covers {
			t.Errorf("%s: %d, want %d", name, got, test.covers)
		}
		if got := w.unsaid(own, 50, false); got != test.just {
			t.Errorf("%s, at a node that has just joined: %d, want %d", name, got, test.just)
		}
	}
}

// A token that left a partition out takes it up again with an index that covers what
// it left out: by what it is shown, and when it is joined with another.
func TestATokenTakesAPartitionUpAgain(t *testing.T) {
	s := &sessions{
		ring:    func() *control.State { return ringOf(4, "a") },
		reached: func(partition.ID) uint64 { return 50 },
	}
	text := func(of *session.Token) string {
		t.Helper()
		text, err := s.token(of)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	dropped := func() *session.Token {
		past := &session.Token{}
		past.Observe(7) // all that is left of what it saw of partition 3
		return past
	}
	low := storage.Version{Index: 9, Timestamp: 3, Node: "a"}
	tentative := &storage.Tentative{Dot: storage.Dot{Node: "a", Incarnation: 1, Sequence: 5}, Base: 8, Timestamp: 4}
	for name, show := range map[string]func(*session.Token){
		"a committed read": func(past *session.Token) { noteCommitted(past, 3, low, 45) },
		"an eventual read": func(past *session.Token) {
			note(3, past, &storage.LocalEntry{Held: &storage.Value{Version: low}}, 45)
		},
		"a tentative write": func(past *session.Token) { note(3, past, &storage.LocalEntry{Tentative: tentative}, 45) },
	} {
		past := dropped()
		if show(past); past.Index(3) != 45 {
			t.Errorf("%s: index %d", name, past.Index(3))
		}
		if show(past); past.Index(3) != 45 {
			t.Errorf("%s, again: index %d", name, past.Index(3))
		}
		fresh := &session.Token{}
		if show(fresh); fresh.Index(3) >= 45 {
			t.Errorf("%s, of a session that has seen nothing: index %d", name, fresh.Index(3))
		}
	}
	knows := &session.Token{}
	knows.Saw(3, 9)
	knows.Saw(2, 9)
	both := &session.Token{}
	both.Saw(2, 8)
	for _, tokens := range [][]string{{text(dropped()), text(knows)}, {text(knows), text(dropped())}, {text(knows), text(both), text(knows)}} {
		past, err := s.read(strings.Join(tokens, session.Joint))
		if err != nil || past.Index(3) != 50 {
			t.Errorf("joined: index %d, %v", past.Index(3), err)
		}
		one, err := s.merge(tokens)
		if err != nil {
			t.Fatal(err)
		}
		if past, err = s.read(one); err != nil || past.Index(3) != 50 {
			t.Errorf("merged: index %d, %v", past.Index(3), err)
		}
	}
	if past, err := s.read(text(knows) + session.Joint + text(knows)); err != nil || past.Index(3) != 9 || past.Index(2) != 9 {
		t.Errorf("both know it: %v", err)
	}
}

// The wait of AwaitWrite does not hold up a node that is to stop.
func TestCloseEndsTheWaitForAFate(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n3 := w.machines[2]
		w.cut(n3)
		w.awaitApart(0, n3)
		r := n3.mustWrite(ask{level: eventual}, keyIn(0, 4, 1), "v")
		ended := make(chan time.Time, 1)
		go func() {
			_, _ = n3.await(r.GetReceipt(), time.Minute)
			ended <- time.Now()
		}()
		time.Sleep(time.Second)
		began := time.Now()
		n3.stop()
		if waited := (<-ended).Sub(began); waited > time.Second {
			t.Errorf("it waited on for %v", waited)
		}
		n3.start()
	})
}

// A version of the key with a timestamp far ahead, that the accepting node only
// relayed: its own write, accepted in a cut, does not hide it from a session
// that has seen it.
func TestOwnWriteDoesNotHideWhatTheSessionSaw(t *testing.T) {
	clocks := &skewed{}
	inCluster(t, 5, func(w *world) {
		const p = 0
		holders, others := w.holders(p)
		m, key := others[0], keyIn(p, 4, 1)
		clocks.set(holders[0], time.Hour)
		fast := holders[0].mustWrite(ask{level: eventual, acks: 3}, key, "fast")
		holders[0].mustBecome(fast.GetReceipt(), 2)
		w.awaitNoBacklog() // every replica has it committed
		me := &talk{}
		m.mustRead(ask{level: eventual, talk: me}, key, "fast")
		w.cut(m)
		m.awaitAlone()
		slow := m.mustWrite(ask{level: eventual}, key, "slow") // another client
		if hlc.Timestamp(slow.GetVersion().GetTimestamp()) > hlc.Timestamp(fast.GetVersion().GetTimestamp()) {
			t.Fatal("a timestamp an hour ahead has moved the clock")
		}
		m.mustRead(ask{level: eventual}, key, "slow")
		_, err := m.read(ask{level: eventual, talk: me}, key)
		w.refusal(err, replication.NoReplica, replication.NotApplied)
		w.heal()
	}, clocks.clock)
}
