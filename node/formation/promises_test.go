package formation

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
)

// machine is one of N machines: its disk keeps node id and cluster, its process
// the promises.
type machine struct {
	name     string
	ids      []partition.NodeID // of all its disks, the last its own
	id       partition.NodeID
	cluster  string
	promises *Promises
}

func (m *machine) start(expect int) { m.promises = NewPromises(m.id, expect, m.cluster) }

// emptyDisk gives it a new id, of any rank among the others'.
func (m *machine) emptyDisk(expect, rank int) {
	m.id = partition.NodeID(fmt.Sprintf("r%d-%d-%s", rank, len(m.ids), m.name))
	m.ids = append(m.ids, m.id)
	m.cluster = ""
	m.start(expect)
}

// TestNeverTwoFoundations runs N machines through random schedules: messages lost,
// repeated and late, processes restarted, disks emptied, promises lapsed, and every
// founder with a view of its own. No two foundations may both have a founder that
// still has its disk.
func TestNeverTwoFoundations(t *testing.T) {
	foundations, schedules := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		schedules++
		n := rapid.IntRange(2, 4).Draw(rt, "n")
		machines := make([]*machine, n)
		rank := func() int { return rapid.IntRange(0, 9).Draw(rt, "rank") }
		for i := range machines {
			machines[i] = &machine{name: fmt.Sprintf("n%d", i)}
			machines[i].emptyDisk(n, rank())
		}
		now := time.Unix(0, 0)
		formations := 0
		founded := map[partition.NodeID]string{}
		var requests []PromiseRequest
		var replies []struct {
			to partition.NodeID
			PromiseReply
		}
		byID := func(id partition.NodeID) *machine {
			i := slices.IndexFunc(machines, func(m *machine) bool { return m.id == id })
			if i < 0 {
				return nil
			}
			return machines[i]
		}
		check := func() {
			var standing []string
			for id, cluster := range founded {
				if m := byID(id); m != nil && m.cluster == cluster {
					standing = append(standing, cluster)
				}
			}
			if len(standing) > 1 {
				rt.Fatalf("two clusters: %v", standing)
			}
		}
		pick := func() *machine { return rapid.SampledFrom(machines).Draw(rt, "machine") }
		begin := func(*rapid.T) {
			m := pick()
			// Decide's set for a view in which each other machine shows an id that it
			// has or had; Decide never counts a machine's name twice.
			view := View{Self: Member{ID: m.id, Name: m.name, Alive: true, Expect: n}, Settled: true}
			for _, o := range machines {
				id := o.id
				if o != m && len(o.ids) > 1 {
					id = rapid.SampledFrom(o.ids).Draw(rt, "stale")
				}
				view.Members = append(view.Members, Member{ID: id, Name: o.name, Alive: true, Expect: n})
			}
			action := Decide(view)
			if action.Kind != Seek {
				return
			}
			formations++
			sent, err := m.promises.Begin(now, action.Set, fmt.Sprintf("c-%d", formations))
			if err == nil {
				requests = append(requests, sent...)
			}
		}
		deliverRequest := func(*rapid.T) {
			if len(requests) == 0 {
				return
			}
			i := rapid.IntRange(0, len(requests)-1).Draw(rt, "request")
			r := requests[i]
			if !rapid.Bool().Draw(rt, "again later") {
				requests = slices.Delete(requests, i, i+1)
			}
			// It may reach the machine under its present id: addresses outlive disks.
			m := machines[slices.IndexFunc(machines, func(m *machine) bool { return strings.HasSuffix(string(r.To), m.name) })]
			replies = append(replies, struct {
				to partition.NodeID
				PromiseReply
			}{r.Founder, m.promises.OnAsk(now, r)})
		}
		deliverReply := func(*rapid.T) {
			if len(replies) == 0 {
				return
			}
			i := rapid.IntRange(0, len(replies)-1).Draw(rt, "reply")
			r := replies[i]
			if !rapid.Bool().Draw(rt, "again later") {
				replies = slices.Delete(replies, i, i+1)
			}
			if m := byID(r.to); m != nil {
				m.promises.OnReply(r.PromiseReply)
			}
		}
		found := func(*rapid.T) {
			for _, m := range machines {
				if m.promises.Complete() {
					foundations++
					m.cluster = m.promises.own
					founded[m.id] = m.cluster
					m.promises.Belong(m.cluster)
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":         func(*rapid.T) { check() },
			"begin":    begin,
			"begin2":   begin,
			"request":  deliverRequest,
			"request2": deliverRequest,
			"request3": deliverRequest,
			"reply":    deliverReply,
			"reply2":   deliverReply,
			"reply3":   deliverReply,
			"found":    found,
			"give up": func(*rapid.T) {
				if m := pick(); !m.promises.Complete() && m.cluster == "" {
					m.promises.Abandon()
				}
			},
			"restart": func(*rapid.T) { pick().start(n) },
			"empty":   func(*rapid.T) { pick().emptyDisk(n, rank()) },
			"deliver all": func(*rapid.T) {
				for i := 0; i < 10 && len(requests) > 0; i++ {
					deliverRequest(nil)
				}
				for i := 0; i < 10 && len(replies) > 0; i++ {
					deliverReply(nil)
				}
			},
			"lapse": func(*rapid.T) { now = now.Add(PromiseLifetime) },
		})
	})
	t.Logf("%d foundations in %d schedules", foundations, schedules)
}

func TestDecide(t *testing.T) {
	member := func(id, cluster string, expect int) Member {
		return Member{ID: partition.NodeID(id + "-aaaa"), Name: id, Alive: true, ClusterID: cluster, Expect: expect}
	}
	failed := func(m Member) Member { m.Alive = false; return m }
	n1, n2, n3 := member("n1", "", 3), member("n2", "", 3), member("n3", "", 3)
	for _, test := range []struct {
		name    string
		self    Member
		members []Member
		hasty   bool
		want    string
	}{
		{"all here, smallest", n1, []Member{n1, n2, n3}, false, "seek [n1-aaaa n2-aaaa n3-aaaa]"},
		{"all here, not smallest", n2, []Member{n1, n2, n3}, false, "wait n1-aaaa is to found the cluster"},
		{"one late", n1, []Member{n1, n2, failed(n3)}, false, "wait 2 of 3 expected nodes are here"},
		{"more than N", n1, []Member{member("n4", "", 3), n3, n2}, false, "seek [n1-aaaa n2-aaaa n3-aaaa]"},
		{"not of the first", member("n4", "", 3), []Member{n1, n3, n2}, false, "wait n1-aaaa is to found the cluster"},
		{"alone", member("n1", "", 1), nil, false, "seek [n1-aaaa]"},
		{"alone, addresses untried", member("n1", "", 1), nil, true, "wait not every join address has been tried yet"},
		{"expects none", member("n1", "", 0), []Member{n2, n3}, false, "wait no member belongs to a cluster yet, and this node expects to join one"},
		{"a cluster is there", n1, []Member{n2, member("n3", "c", 3)}, true, "join c [n3-aaaa]"},
		{"its member has failed", n1, []Member{n2, n3, failed(member("n4", "c", 3))}, false, "wait n4-aaaa belongs to cluster c and does not answer"},
		{"its disk was emptied", n1, []Member{n2, n3, {ID: "n3-bbbb", Name: "n3", ClusterID: "c"}}, false, "seek [n1-aaaa n2-aaaa n3-aaaa]"},
		{"two clusters", n1, []Member{member("n2", "b", 3), member("n3", "a", 3)}, false, "wait members of two clusters are reachable: a and b"},
		{"expectations differ", n1, []Member{n2, member("n3", "", 5)}, false, "wait 2 of 3 expected nodes are here; n3-aaaa expects 5"},
		{"one name twice", n1, []Member{n2, {ID: "n2-bbbb", Name: "n2", Alive: true, Expect: 3}}, false,
			"wait 1 of 3 expected nodes are here; n2-aaaa shares its name with another; n2-bbbb shares its name with another"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := Decide(View{Self: test.self, Members: test.members, Settled: !test.hasty})
			got := a.Kind.String() + " "
			switch a.Kind {
			case Wait:
				got += a.Reason
			case Join:
				got += fmt.Sprint(a.ClusterID, " ", a.Via)
			case Seek:
				got += fmt.Sprint(a.Set)
			}
			if got != test.want {
				t.Fatalf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestAnAnswerToAnEarlierAttemptDoesNotCount is the second rule alone: random
// schedules hardly meet it, since the order of ids guards the same door.
func TestAnAnswerToAnEarlierAttemptDoesNotCount(t *testing.T) {
	set := []partition.NodeID{"a", "b"}
	now := time.Unix(0, 0)
	a, b := NewPromises("a", 2, ""), NewPromises("b", 2, "")
	first, err := a.Begin(now, set, "c-1")
	if err != nil {
		t.Fatal(err)
	}
	late := b.OnAsk(now, first[0])
	a.Abandon()
	if _, err := a.Begin(now, set, "c-2"); err != nil {
		t.Fatal(err)
	}
	if a.OnReply(late); !late.Granted || a.Complete() {
		t.Fatalf("granted %v, complete %v", late.Granted, a.Complete())
	}
}
