package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/session"
)

const (
	linearizable = capstanv1.Consistency_CONSISTENCY_LINEARIZABLE
	bounded      = capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS
	eventual     = capstanv1.Consistency_CONSISTENCY_EVENTUAL
)

// talk is a client's session: it carries the token from answer to request, also
// that of an error. A nil talk is a client without one.
type talk struct{ token string }

func (t *talk) send() string {
	if t == nil {
		return ""
	}
	return t.token
}

func (t *talk) heard(token string, err error) {
	var e *replication.Error
	if errors.As(err, &e) {
		token = e.Session
	}
	if t != nil && token != "" {
		t.token = token
	}
}

// ask is what a request says beside its key.
type ask struct {
	talk   *talk
	level  capstanv1.Consistency
	acks   uint32
	within time.Duration // of staleness
	wait   time.Duration // for the answer; 0: requestTime
	absent bool          // condition
	// replicas is how many an eventual read asks.
	replicas uint32
}

func (a ask) context() (context.Context, context.CancelFunc) {
	if a.wait == 0 {
		a.wait = requestTime
	}
	return context.WithTimeout(context.Background(), a.wait)
}

// write puts value at key, or deletes it if value is "".
func (m *machine) write(a ask, key, value string) (*capstanv1.PutResponse, error) {
	p := m.running()
	if p == nil {
		return nil, errPowerOff
	}
	ctx, cancel := a.context()
	defer cancel()
	var condition *capstanv1.Condition
	if a.absent {
		condition = &capstanv1.Condition{Test: &capstanv1.Condition_Absent{Absent: true}}
	}
	if value == "" {
		r, err := p.router.Delete(ctx, &capstanv1.DeleteRequest{
			Key: []byte(key), Consistency: a.level, Acks: a.acks, Session: a.talk.send(), Condition: condition,
		})
		a.talk.heard(r.GetSession(), err)
		if err != nil {
			return nil, err
		}
		return &capstanv1.PutResponse{Version: r.Version, Receipt: r.Receipt, Session: r.Session, ServedBy: r.ServedBy, Base: r.Base}, nil
	}
	r, err := p.router.Put(ctx, &capstanv1.PutRequest{
		Key: []byte(key), Value: []byte(value), Consistency: a.level, Acks: a.acks, Session: a.talk.send(), Condition: condition,
	})
	a.talk.heard(r.GetSession(), err)
	return r, err
}

func (m *machine) read(a ask, key string) (*capstanv1.GetResponse, error) {
	p := m.running()
	if p == nil {
		return nil, errPowerOff
	}
	ctx, cancel := a.context()
	defer cancel()
	req := &capstanv1.GetRequest{Key: []byte(key), Consistency: a.level, Session: a.talk.send(), Replicas: a.replicas}
	if a.within > 0 {
		req.MaxStaleness = durationpb.New(a.within)
	}
	r, err := p.router.Get(ctx, req)
	a.talk.heard(r.GetSession(), err)
	return r, err
}

// mustWrite and mustRead are for requests that have to succeed. An absent key
// reads as "".
func (m *machine) mustWrite(a ask, key, value string) *capstanv1.PutResponse {
	m.world.t.Helper()
	r, err := m.write(a, key, value)
	if err != nil {
		m.world.t.Fatalf("%v write of %s=%q at %s: %v", a.level, key, value, m.name, err)
	}
	return r
}

func (m *machine) mustRead(a ask, key, want string) *capstanv1.GetResponse {
	m.world.t.Helper()
	r, err := m.read(a, key)
	if err != nil || string(r.GetValue()) != want || r.GetFound() != (want != "") {
		m.world.t.Fatalf("%v read of %s at %s: %q, found %v, %v; want %q", a.level, key, m.name, r.GetValue(), r.GetFound(), err, want)
	}
	return r
}

// refusal is the typed error of a request that must have failed.
func (w *world) refusal(err error, reason replication.Reason, outcome replication.Outcome) *replication.Error {
	w.t.Helper()
	var e *replication.Error
	if !errors.As(err, &e) || e.Reason != reason || e.Outcome != outcome {
		w.t.Fatalf("refused with %v (%#v); want reason %d, outcome %d", err, e, reason, outcome)
	}
	return e
}

// await asks for the fate of a write.
func (m *machine) await(receipt string, wait time.Duration) (*capstanv1.AwaitWriteResponse, error) {
	p := m.running()
	if p == nil {
		return nil, errPowerOff
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait+requestTime)
	defer cancel()
	return p.router.AwaitWrite(ctx, &capstanv1.AwaitWriteRequest{Receipt: receipt, Wait: durationpb.New(wait)})
}

func (m *machine) mustBecome(receipt string, want capstanv1.Fate) *capstanv1.AwaitWriteResponse {
	m.world.t.Helper()
	r, err := m.await(receipt, time.Minute)
	if err != nil || r.GetFate() != want {
		m.world.t.Fatalf("fate at %s: %v, %v; want %v", m.name, r, err, want)
	}
	return r
}

// conflicts are all that the node at m lists of keys with the prefix.
func (m *machine) conflicts(prefix string) ([]*capstanv1.Conflict, error) {
	return m.conflictsUpTo(prefix, 0)
}

// conflictsUpTo are the first so many of them; 0: all.
func (m *machine) conflictsUpTo(prefix string, limit uint32) ([]*capstanv1.Conflict, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	var found []*capstanv1.Conflict
	err := m.running().router.ListConflicts(ctx, &capstanv1.ListConflictsRequest{Prefix: []byte(prefix), Limit: limit},
		func(page *capstanv1.ListConflictsResponse) error {
			found = append(found, page.GetConflicts()...)
			return nil
		})
	return found, err
}

// awaitAlone waits until m hears of no other machine.
func (m *machine) awaitAlone() {
	m.world.t.Helper()
	m.world.eventually(time.Minute, "nobody is heard", func() error {
		for _, o := range m.world.others(m) {
			if m.running().heardOf(o.running().id) {
				return fmt.Errorf("%s is", o.name)
			}
		}
		return nil
	})
}

// awaitNoBacklog waits until no machine that runs holds an undecided write.
func (w *world) awaitNoBacklog() {
	w.t.Helper()
	w.eventually(2*time.Minute, "no tentative writes are left", func() error {
		for _, m := range w.machines {
			p := m.running()
			if p == nil {
				continue
			}
			for id, held := range p.exchange.Backlog() {
				if held.Count > 0 {
					return fmt.Errorf("%s holds %d of partition %d", m.name, held.Count, id)
				}
			}
		}
		return nil
	})
}

// holders are the machines with a replica of p, others those without.
func (w *world) holders(p partition.ID) (holders, others []*machine) {
	for _, m := range w.machines {
		if m.running().replicas.replica(p) != nil {
			holders = append(holders, m)
		} else {
			others = append(others, m)
		}
	}
	return holders, others
}

// compareHolders waits until all replicas of every partition hold the same,
// byte for byte.
func (w *world) compareHolders() {
	w.t.Helper()
	for i := range w.machines[0].running().ring().Partitions {
		p := partition.ID(i)
		holders, _ := w.holders(p)
		w.eventually(time.Minute, fmt.Sprintf("replicas of partition %d are equal", p), func() error {
			index, want, err := holders[0].records(p)
			if err != nil {
				return err
			}
			for _, m := range holders[1:] {
				i, got, err := m.records(p)
				switch {
				case err != nil:
					return err
				case i != index:
					return fmt.Errorf("%s has applied %d, %s %d", holders[0].name, index, m.name, i)
				case !bytes.Equal(got, want):
					w.t.Fatalf("partition %d: %s and %s have both applied entry %d and hold different records", p, holders[0].name, m.name, index)
				}
			}
			return nil
		})
	}
}

// cut parts the machines from all others, both ways.
func (w *world) cut(side ...*machine) {
	for _, m := range side {
		for _, o := range w.others(side...) {
			w.net.Cut(m.host, o.host)
			w.net.Cut(o.host, m.host)
		}
	}
}

// heal ends all cuts and waits until every machine leads or follows again.
func (w *world) heal() {
	w.t.Helper()
	w.net.Heal()
	var up []*machine
	for _, m := range w.machines {
		if m.running() != nil {
			up = append(up, m)
		}
	}
	w.awaitReady(up...)
}

// awaitCutOff waits until the machine knows that it reaches no quorum of p.
func (m *machine) awaitCutOff(p partition.ID) {
	m.world.t.Helper()
	m.world.eventually(time.Minute, m.name+" is cut off", func() error {
		if m.running().replicas.replica(p).group.Refuses() == nil {
			return errors.New("it still hopes")
		}
		return nil
	})
}

// seen is a session that has seen an index.
func (m *machine) seen(p partition.ID, index uint64) *session.Token {
	t := &session.Token{}
	t.Saw(p, index)
	return t
}

// scan gives the keys with the prefix.
func (m *machine) scanAt(a ask, prefix string) (keys []string, end *capstanv1.ScanEnd, err error) {
	ctx, cancel := a.context()
	defer cancel()
	req := &capstanv1.ScanRequest{Prefix: []byte(prefix), Consistency: a.level, Session: a.talk.send()}
	if a.within > 0 {
		req.MaxStaleness = durationpb.New(a.within)
	}
	err = m.running().router.Scan(ctx, req, func(r *capstanv1.ScanResponse) error {
		for _, e := range r.GetEntries() {
			keys = append(keys, string(e.GetKey()))
		}
		if r.GetEnd() != nil {
			end = r.GetEnd()
		}
		return nil
	})
	a.talk.heard(end.GetSession(), err)
	return keys, end, err
}

// awaitApart waits until the minority knows that it reaches no quorum of p, and
// all others follow a leader among themselves.
func (w *world) awaitApart(p partition.ID, minority ...*machine) {
	w.t.Helper()
	for _, m := range minority {
		m.awaitCutOff(p)
	}
	majority := w.others(minority...)
	w.eventually(time.Minute, "the majority has a leader", func() error {
		leader := w.leaderOf(p, majority...).running().id
		for _, m := range majority {
			if here := m.running().replicas.replica(p); here != nil && here.leader() != leader {
				return fmt.Errorf("%s follows %q", m.name, here.leader())
			}
		}
		return nil
	})
}
