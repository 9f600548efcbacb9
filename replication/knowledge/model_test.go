package knowledge_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/storage"
)

// A model of a Raft group without time: whoever wants to stands, votes and appends
// arrive or not. Each node keeps a book about the others.

// disk is what a replica must not forget. The log begins behind the snapshot.
type disk struct {
	term, voteTerm uint64
	vote           int
	snapshot       entry
	log            []entry
}

func (d disk) clone() disk { d.log = slices.Clone(d.log); return d }

func (d disk) end() entry {
	if n := len(d.log); n > 0 {
		return d.log[n-1]
	}
	return d.snapshot
}

// has reports whether the log or what the snapshot stands for has e.
func (d disk) has(e entry) bool {
	return e.Index <= d.snapshot.Index || slices.Contains(d.log, e)
}

func (d disk) claim(to int) claim {
	return claim{Term: d.term, End: d.end(), VoteTerm: d.voteTerm, Voted: d.vote == to}
}

type replica struct {
	disk
	leads   uint64 // the term it leads; 0: none
	matched map[int]uint64
	book    *knowledge.Book
	saved   map[knowledge.Key]knowledge.Record
	opening uint64
	at      map[int]uint64 // connections, by the other node
	images  []image
}

// image is an old copy of a disk, and what the replica has shown since, by node.
type image struct {
	disk
	since map[int][]shown
}

type group struct {
	t       *rapid.T
	nodes   []*replica
	commit  entry
	opened  uint64
	refused bool
}

func id(n int) knowledge.Key {
	return knowledge.Key{Node: partition.NodeID(fmt.Sprint("n", n)), Replica: storage.Replica{Group: 1, Generation: 1}}
}

// open has every other node hear what i's disk holds.
func (g *group) open(i int) {
	n := g.nodes[i]
	g.opened++
	n.opening, n.leads = g.opened, 0
	for j := range g.nodes {
		if j != i {
			g.connect(j, i)
		}
	}
}

// connect introduces i to j by a new connection.
func (g *group) connect(j, i int) {
	n, other := g.nodes[i], g.nodes[j]
	other.at[i]++
	if err := other.book.Judge(id(i), other.at[i], n.opening, n.opened().claim(j)); err != nil {
		g.refused = true
	}
}

// opened is the disk as it was when the replica was opened: images[0] of a run.
func (r *replica) opened() disk { return r.images[0].disk }

// show is what i shows to j.
func (g *group) show(i, j int, s shown) {
	n := g.nodes[i]
	for k := range n.images {
		n.images[k].since[j] = append(n.images[k].since[j], s)
	}
	if loss := g.nodes[j].book.Note(id(i), n.opening, s); loss != nil {
		g.refused = true
	}
}

func (g *group) raise(i int, term uint64) {
	if n := g.nodes[i]; term > n.term {
		n.term, n.leads = term, 0
	}
}

func (g *group) stand(i int, voters []int) {
	n := g.nodes[i]
	g.raise(i, n.term+1)
	n.voteTerm, n.vote = n.term, i
	votes := 1
	for _, j := range voters {
		v := g.nodes[j]
		g.show(i, j, shown{Term: n.term}) // the request
		g.raise(j, n.term)
		e, own := n.end(), v.end()
		free := v.voteTerm < n.term || v.voteTerm == n.term && v.vote == i
		if v.term == n.term && free && (e.Term > own.Term || e.Term == own.Term && e.Index >= own.Index) {
			v.voteTerm, v.vote = n.term, i
			g.show(j, i, shown{Term: v.term, Voted: n.term})
			votes++
		} else {
			g.show(j, i, shown{Term: v.term})
		}
		g.raise(i, v.term)
	}
	if votes > len(g.nodes)/2 && n.voteTerm == n.term && n.vote == i {
		n.leads, n.matched = n.term, map[int]uint64{}
	}
}

// replicate sends at most count entries from what j is known to have, or from
// index from on. A snapshot goes where the log does not reach back.
func (g *group) replicate(i, j, count int, from uint64) {
	n, f := g.nodes[i], g.nodes[j]
	if n.leads == 0 || n.leads != n.term {
		return
	}
	prev := n.snapshot
	rest := n.log
	for len(rest) > 0 && rest[0].Index < from {
		prev, rest = rest[0], rest[1:]
	}
	g.show(i, j, shown{Term: n.term, Acked: n.term, End: prev})
	if n.term < f.term {
		g.show(j, i, shown{Term: f.term})
		g.raise(i, f.term)
		return
	}
	g.raise(j, n.term)
	if !f.has(prev) || prev.Index < f.snapshot.Index {
		if prev != n.snapshot || prev.Index <= f.snapshot.Index || prev.Index == 0 {
			g.show(j, i, shown{Term: f.term})
			return
		}
		// Install: the log goes, unless it has the snapshot's entry.
		keep := slices.Index(f.log, prev)
		if f.snapshot = prev; keep >= 0 {
			f.log = slices.Clone(f.log[keep+1:])
		} else {
			f.log = nil
		}
	}
	sent := rest[:min(count, len(rest))]
	for _, e := range sent {
		if e.Index <= f.snapshot.Index {
			continue
		}
		at := int(e.Index - f.snapshot.Index - 1)
		if at < len(f.log) && f.log[at] == e {
			continue
		}
		f.log = append(slices.Clone(f.log[:min(at, len(f.log))]), e)
	}
	last := prev
	if len(sent) > 0 {
		last = sent[len(sent)-1]
	}
	n.matched[j] = max(n.matched[j], last.Index)
	g.show(j, i, shown{Term: f.term, Acked: n.term, End: last})
	votes := 1
	for _, m := range n.matched {
		if m >= last.Index {
			votes++
		}
	}
	if last.Term == n.term && votes > len(g.nodes)/2 && last.Index > g.commit.Index {
		g.commit = last
	}
}

// cut takes a snapshot of a committed prefix.
func (g *group) cut(i int) {
	n := g.nodes[i]
	if !n.has(g.commit) {
		return
	}
	for len(n.log) > 0 && n.log[0].Index <= g.commit.Index {
		n.snapshot, n.log = n.log[0], slices.Clone(n.log[1:])
	}
}

func (g *group) step(name string) {
	t := g.t
	node := rapid.IntRange(0, len(g.nodes)-1)
	i := node.Draw(t, "node")
	n := g.nodes[i]
	switch name {
	case "stand":
		g.stand(i, slices.DeleteFunc(rapid.Permutation(others(len(g.nodes), i)).Draw(t, "voters"), func(int) bool {
			return rapid.IntRange(0, 3).Draw(t, "lost") == 0
		}))
	case "propose":
		if n.leads != 0 && n.leads == n.term {
			n.log = append(slices.Clone(n.log), entry{n.term, n.end().Index + 1})
		}
	case "replicate":
		j := node.Draw(t, "follower")
		if j != i {
			var from uint64
			if m, ok := n.matched[j]; ok && rapid.Bool().Draw(t, "known") {
				from = m + 1
			} else {
				from = rapid.Uint64Range(0, n.end().Index+1).Draw(t, "from")
			}
			g.replicate(i, j, rapid.IntRange(0, 3).Draw(t, "count"), from)
		}
	case "cut":
		g.cut(i)
	case "image":
		n.images = append(n.images, image{n.disk.clone(), map[int][]shown{}})
	case "connect":
		if j := node.Draw(t, "to"); j != i {
			g.connect(j, i)
		}
	case "save":
		g.save(i)
	case "restart":
		g.restart(i, n.disk.clone())
	}
}

// restart opens i again, on what it is given for a disk. Its own book is what was
// saved, perhaps some time ago.
func (g *group) restart(i int, d disk) {
	n := g.nodes[i]
	n.book = knowledge.NewBook(n.saved)
	n.disk = d
	n.images = []image{{d.clone(), map[int][]shown{}}}
	for j, other := range g.nodes {
		if j != i {
			for k := range other.images {
				delete(other.images[k].since, i) // some of it is not saved
			}
			n.at[j] = 0
			g.connect(i, j)
		}
	}
	g.open(i)
}

func (g *group) save(i int) {
	n := g.nodes[i]
	if n.saved == nil {
		n.saved = map[knowledge.Key]knowledge.Record{}
	}
	maps.Copy(n.saved, n.book.Changes())
}

func others(n, not int) (out []int) {
	for i := range n {
		if i != not {
			out = append(out, i)
		}
	}
	return out
}

// history runs some steps of an honest group.
func history(t *rapid.T) *group {
	g := &group{t: t}
	for range rapid.SampledFrom([]int{1, 2, 3, 5}).Draw(t, "nodes") {
		d := disk{vote: -1}
		g.nodes = append(g.nodes, &replica{disk: d, book: knowledge.NewBook(nil), at: map[int]uint64{},
			images: []image{{d, map[int][]shown{}}}})
	}
	for i := range g.nodes {
		g.open(i)
	}
	// Long histories are made of the steps that lead somewhere.
	step := rapid.SampledFrom([]string{"stand", "propose", "propose", "propose", "replicate", "replicate", "replicate", "replicate",
		"replicate", "cut", "image", "connect", "save", "restart"})
	for range rapid.IntRange(0, 120).Draw(t, "steps") {
		g.step(step.Draw(t, "step"))
	}
	return g
}

// A replica that comes back with all that it had on its disk is never refused,
// whatever elections, overwritten tails, snapshots and restarts came before.
func TestAnHonestReplicaIsNeverRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if g := history(t); g.refused {
			t.Fatal("refused")
		}
	})
}

// A replica that comes back with an older disk is refused by each node to which it
// has shown something since that the disk lacks and that counts: a term, a vote, or
// an entry of the term in which it was acknowledged.
func TestARolledBackReplicaIsRefused(t *testing.T) {
	var refusals, images int
	rapid.Check(t, func(t *rapid.T) {
		g := history(t)
		for i, n := range g.nodes {
			for _, old := range n.images {
				images++
				for j, all := range old.since {
					must := false
					for _, s := range all {
						must = must || s.Term > old.term || s.Voted == old.term && s.Voted > 0 && (old.voteTerm != s.Voted || old.vote != j) ||
							s.Acked > 0 && s.End.Term == s.Acked && !old.has(s.End)
					}
					other := g.nodes[j]
					err := other.book.Judge(id(i), other.at[i]+1, 1<<60, old.claim(j))
					if loss := (*knowledge.Loss)(nil); must && !errors.As(err, &loss) {
						t.Fatalf("n%d takes n%d back with %+v, after it has shown %+v", j, i, old.disk, all)
					}
					if err != nil {
						refusals++
					}
				}
			}
		}
	})
	t.Logf("%d images, %d refusals", images, refusals)
	if refusals == 0 {
		t.Error("no history had anything to lose")
	}
}

// An answer of an earlier opening that is read after a later opening was accepted
// tells that the later one lacks it.
func TestALateAnswerIsHeldToTheLaterOpening(t *testing.T) {
	b := knowledge.NewBook(nil)
	k := id(1)
	judge := func(at, opening uint64, c claim) {
		t.Helper()
		if err := b.Judge(k, at, opening, c); err != nil {
			t.Fatal(err)
		}
	}
	judge(1, 10, claim{Term: 3, End: entry{3, 5}})
	judge(2, 11, claim{Term: 3, End: entry{3, 5}})
	if loss := b.Note(k, 10, shown{Term: 3, Acked: 3, End: entry{3, 5}}); loss != nil {
		t.Errorf("the later opening has it: %v", loss)
	}
	if loss := b.Note(k, 10, shown{Term: 3, Acked: 3, End: entry{3, 6}}); loss == nil || loss.Opening != 11 {
		t.Errorf("the later opening lacks it: %v", loss)
	}
	// A claim that comes by the earlier connection changes nothing.
	if err := b.Judge(k, 1, 10, claim{Term: 3, End: entry{3, 5}}); !errors.Is(err, knowledge.ErrStale) {
		t.Errorf("the earlier connection: %v", err)
	}
	if loss := b.Note(k, 11, shown{Term: 3, Acked: 3, End: entry{3, 9}}); loss != nil {
		t.Errorf("the later opening goes on: %v", loss)
	}
}

// A node that starts again on what its book had saved does not hold an opening that
// goes on to the claim with which that began.
func TestARestartOfTheNodeThatKnows(t *testing.T) {
	b, k := knowledge.NewBook(nil), id(1)
	began := claim{Term: 3, End: entry{3, 5}}
	if err := b.Judge(k, 1, 10, began); err != nil {
		t.Fatal(err)
	}
	b.Note(k, 10, shown{Term: 4, Acked: 4, End: entry{4, 50}})
	saved := b.Changes()
	if len(saved) != 1 || b.Changes() != nil {
		t.Fatalf("changes: %+v, then more", saved)
	}
	b.Note(k, 10, shown{Term: 4, Acked: 4, End: entry{4, 60}}) // lost with the kill
	b = knowledge.NewBook(saved)
	if err := b.Judge(k, 1, 10, began); err != nil {
		t.Errorf("the same opening: %v", err)
	}
	if err := b.Judge(k, 2, 11, began); err == nil {
		t.Error("a later opening with the old disk is accepted")
	}
	if err := b.Judge(k, 2, 11, claim{Term: 4, End: entry{4, 60}}); err != nil {
		t.Errorf("a later opening with its disk: %v", err)
	}
	if keys := b.Forget(k.Node); len(keys) != 1 || b.Shown(k) != (shown{}) {
		t.Errorf("forgotten: %v, %+v left", keys, b.Shown(k))
	}
}
