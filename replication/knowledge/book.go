package knowledge

import (
	"errors"
	"sync"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// ErrStale is the judgement on a claim that came by a connection which a later
// one has replaced.
var ErrStale = errors.New("the claim came by an earlier connection")

// Key names a replica of another node.
type Key = storage.PeerReplica

// Book is all that a node knows of other nodes' replicas. It is safe for
// concurrent use.
type Book struct {
	mu    sync.Mutex
	pages map[Key]*page
	dirty map[Key]struct{} // to be saved
}

// page is one replica.
type page struct {
	Record
	claim Claim  // of the opening
	at    uint64 // the connection by which it came; 0: none in this node's life
}

// Record is what is saved of one replica: what it has shown, and which of its
// openings was accepted last. Both are saved together: a node that starts again
// must know which opening has shown it, or it would hold an opening that goes on
// to the claim that it began with.
type Record struct {
	Opening uint64 // 0: none
	Shown   Shown
}

// NewBook is a book that holds what an earlier one has saved.
func NewBook(saved map[Key]Record) *Book {
	b := &Book{pages: make(map[Key]*page, len(saved)), dirty: map[Key]struct{}{}}
	for k, r := range saved {
		b.pages[k] = &page{Record: r}
	}
	return b
}

func (b *Book) page(k Key) *page {
	p := b.pages[k]
	if p == nil {
		p = &page{}
		b.pages[k] = p
	}
	return p
}

// Judge compares the claim of an opening (not 0) with what the replica's earlier
// openings have shown. Nil accepts it; else the error is a *[Loss] or [ErrStale]. at
// numbers the connections to the node, from 1. The same opening may claim again, by
// a later connection: it is not compared with what it has shown itself.
func (b *Book) Judge(k Key, at, opening uint64, c Claim) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.page(k)
	if at < p.at {
		return ErrStale
	}
	if p.Opening != opening {
		if loss := p.Shown.Lacks(c); loss != nil {
			loss.Opening = opening
			return loss
		}
		p.Opening = opening
		b.dirty[k] = struct{}{}
	}
	p.claim, p.at = c, at
	b.add(k, p, Shown{Term: c.Term}) // on its disk, so it counts
	return nil
}

// Note adds what an opening has shown that [Book.Judge] has accepted. It gives the
// loss if a later opening was accepted meanwhile whose claim lacks it.
func (b *Book) Note(k Key, opening uint64, s Shown) *Loss {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.page(k)
	b.add(k, p, s)
	if p.Opening == opening {
		return nil
	}
	loss := s.Lacks(p.claim)
	if loss != nil {
		loss.Opening = p.Opening
	}
	return loss
}

func (b *Book) add(k Key, p *page, s Shown) {
	if sum := p.Shown.Add(s); sum != p.Shown {
		p.Shown = sum
		b.dirty[k] = struct{}{}
	}
}

// Changes are the records that have changed since the last call, for the caller
// to save.
func (b *Book) Changes() map[Key]Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.dirty) == 0 {
		return nil
	}
	changes := make(map[Key]Record, len(b.dirty))
	for k := range b.dirty {
		changes[k] = b.pages[k].Record
	}
	clear(b.dirty)
	return changes
}

// Shown is what a replica has shown.
func (b *Book) Shown(k Key) Shown {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pages[k]; p != nil {
		return p.Shown
	}
	return Shown{}
}

// Forget removes all pages of a node that was removed for good, and returns
// their keys, for them to be erased.
func (b *Book) Forget(node partition.NodeID) []Key {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []Key
	for k := range b.pages {
		if k.Node == node {
			keys = append(keys, k)
			delete(b.pages, k)
			delete(b.dirty, k)
		}
	}
	return keys
}
