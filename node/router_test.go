package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/transport"
)

// scriptedHopper answers the n-th hop by the n-th line of a script, the last
// line for ever.
type scriptedHopper struct {
	script []func(to partition.NodeID, frame []byte) ([]byte, error)
	asked  []partition.NodeID
	frames [][]byte
}

func (s *scriptedHopper) hop(_ context.Context, to partition.NodeID, frame []byte) ([]byte, error) {
	line := s.script[min(len(s.asked), len(s.script)-1)]
	s.asked, s.frames = append(s.asked, to), append(s.frames, frame)
	return line(to, frame)
}

type noReplicas struct{}

func (noReplicas) replica(partition.ID) *replica { return nil }
func (noReplicas) lost(partition.ID) *outage     { return nil }

func ringOf(partitions int, nodes ...partition.NodeID) *control.State {
	ring := &control.State{ClusterID: "c"}
	for _, id := range nodes {
		ring.Nodes = append(ring.Nodes, control.Node{ID: id, Name: string(id)})
	}
	for range partitions {
		var replicas []control.Replica
		for _, id := range nodes {
			replicas = append(replicas, control.Replica{Node: id, Generation: 1, Voter: true})
		}
		ring.Partitions = append(ring.Partitions, control.Partition{Replicas: replicas, NextGeneration: 2})
	}
	return ring
}

func scripted(partitions int, script ...func(partition.NodeID, []byte) ([]byte, error)) (*router, *scriptedHopper) {
	ring := ringOf(partitions, "a", "b", "c")
	hopper := &scriptedHopper{script: script}
	return newRouter("x", func() *control.State { return ring }, hopper, noReplicas{}), hopper
}

func answers(m proto.Message) func(partition.NodeID, []byte) ([]byte, error) {
	return func(partition.NodeID, []byte) ([]byte, error) { return proto.Marshal(m) }
}

func refuses(e replication.Error) func(partition.NodeID, []byte) ([]byte, error) {
	return func(partition.NodeID, []byte) ([]byte, error) { return nil, &e }
}

var (
	notLeaderB   = replication.Error{Reason: replication.LeaderChanged, Outcome: replication.NotApplied, NotLeader: true, Leader: "b"}
	notLeader    = replication.Error{Reason: replication.LeaderChanged, Outcome: replication.NotApplied, NotLeader: true}
	leaderLost   = replication.Error{Reason: replication.LeaderChanged, Outcome: replication.Unknown}
	lateUnknown  = replication.Error{Reason: replication.Deadline, Outcome: replication.Unknown}
	nodeStopping = replication.Error{Reason: replication.Stopping, Outcome: replication.NotApplied}
	notReached   = replication.Error{Reason: replication.NoReplica, Outcome: replication.NotApplied, Err: errNotDelivered}
	conditionBad = replication.Error{Reason: replication.ConditionFailed, Outcome: replication.NotApplied}
	quorumGone   = replication.Error{Reason: replication.NoQuorum, Outcome: replication.NotApplied, Reachable: 1, Needed: 2}
	tooMany      = replication.Error{Reason: replication.Overloaded, Outcome: replication.NotApplied}
)

// What the router does after each kind of refusal, for writes and for reads.
func TestRouterRetries(t *testing.T) {
	put := func(ctx context.Context, r *router) error {
		_, err := r.Put(ctx, &capstanv1.PutRequest{Key: []byte("k"), Value: []byte("v")})
		return err
	}
	get := func(ctx context.Context, r *router) error {
		_, err := r.Get(ctx, &capstanv1.GetRequest{Key: []byte("k")})
		return err
	}
	for _, test := range []struct {
		name   string
		do     func(context.Context, *router) error
		first  replication.Error
		asked  string // the nodes asked, in order, when the second answers
		answer bool   // whether there is a second
	}{
		{"write, the leader is elsewhere", put, notLeaderB, "[a b]", true},
		{"write, no leader is known", put, notLeader, "[a a]", true},
		{"write, lost on its way back", put, leaderLost, "[a]", false},
		{"write, out of time there", put, lateUnknown, "[a]", false},
		{"write, stopping", put, nodeStopping, "[a a]", true},
		{"write, not delivered", put, notReached, "[a b]", true},
		{"write, condition failed", put, conditionBad, "[a]", false},
		{"write, no quorum", put, quorumGone, "[a]", false},
		{"write, overloaded", put, tooMany, "[a]", false},
		{"read, the leader is elsewhere", get, notLeaderB, "[a b]", true},
		{"read, lost on its way back", get, leaderLost, "[a a]", true},
		{"read, not delivered", get, notReached, "[a b]", true},
		{"read, no quorum", get, quorumGone, "[a]", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				r, hopper := scripted(1, refuses(test.first), answers(&capstanv1.PutResponse{}))
				err := test.do(ctx, r)
				if test.answer != (err == nil) {
					t.Errorf("error %v", err)
				}
				if got := fmt.Sprint(hopper.asked); got != test.asked {
					t.Errorf("asked %s, want %s", got, test.asked)
				}
				var e *replication.Error
				if err != nil && (!errors.As(err, &e) || e.Reason != test.first.Reason || e.Outcome != test.first.Outcome) {
					t.Errorf("the client is told %+v, it was %+v", e, test.first)
				}
			})
		})
	}
}

// Definite refusals until the time is over are a definite refusal, and the
// number of attempts is bounded by growing pauses.
func TestRouterGivesUp(t *testing.T) {
	for _, refusal := range []replication.Error{notLeader, notLeaderB, nodeStopping, notReached} {
		synctest.Test(t, func(t *testing.T) {
			r, hopper := scripted(1, refuses(refusal))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := r.Put(ctx, &capstanv1.PutRequest{Key: []byte("k")})
			var e *replication.Error
			if !errors.As(err, &e) || e.Outcome != replication.NotApplied {
				t.Errorf("%+v for ever: %v", refusal, err)
			}
			if n := len(hopper.asked); n < 3 || n > 60 {
				t.Errorf("%+v for ever: %d attempts in 5 s", refusal, n)
			}
		})
	}
}

// A prefix that holds a whole hash tag needs one partition, any other all.
func TestScanAsksPartitionsOfPrefix(t *testing.T) {
	empty := func(partition.NodeID, []byte) ([]byte, error) { return encodePage(page{}) }
	for prefix, want := range map[string]int{"{user1}": 1, "{user1}/cart": 1, "a{b}c": 1, "{user1": 8, "{}": 8, "user": 8, "": 8} {
		r, hopper := scripted(8, empty)
		hopped := make(chan struct{}, 1)
		hopped <- struct{}{}
		r.peers = oneAtATime{hopper, hopped}
		err := r.Scan(t.Context(), &capstanv1.ScanRequest{Prefix: []byte(prefix)}, func(*capstanv1.ScanResponse) error { return nil })
		if err != nil || len(hopper.asked) != want {
			t.Errorf("prefix %q: %d partitions asked, want %d; %v", prefix, len(hopper.asked), want, err)
		}
		if want == 1 {
			if p := binary.BigEndian.Uint32(hopper.frames[0][1:]); partition.ID(p) != partition.Of([]byte(prefix), 8) {
				t.Errorf("prefix %q: partition %d was asked", prefix, p)
			}
		}
	}
}

type oneAtATime struct {
	hopper
	turn chan struct{}
}

func (o oneAtATime) hop(ctx context.Context, to partition.NodeID, frame []byte) ([]byte, error) {
	<-o.turn
	defer func() { o.turn <- struct{}{} }()
	return o.hopper.hop(ctx, to, frame)
}

// A forwarded operation is never forwarded again: who cannot answer it refuses,
// and it has no effect.
func TestMarkedRequestIsNotForwarded(t *testing.T) {
	withStranger(t, func(t *testing.T, w *world, fourth *machine) {
		key := keyIn(2, 4, 0)
		leader := w.leaderOf(2)
		follower := w.others(leader, fourth)[0]
		put, err := encodeHop(hopPut, &capstanv1.PutRequest{Key: []byte(key), Value: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		get, err := encodeHop(hopGet, &capstanv1.GetRequest{Key: []byte(key)})
		if err != nil {
			t.Fatal(err)
		}
		scan := binary.BigEndian.AppendUint32([]byte{byte(hopScanOpen)}, 2)
		for _, test := range []struct {
			name  string
			from  *machine
			to    *machine
			frame []byte
		}{
			{"a write at a follower", leader, follower, put},
			{"a write at a node without replicas", leader, fourth, put},
			{"a read at a node without replicas", leader, fourth, get},
			{"a scan at a node without replicas", leader, fourth, scan},
		} {
			_, err := transportHopper{test.from.running().transport}.hop(t.Context(), test.to.running().id, test.frame)
			var e *replication.Error
			if !errors.As(err, &e) || e.Outcome != replication.NotApplied || !e.NotLeader {
				t.Errorf("%s: %v", test.name, err)
				continue
			}
			if test.to == follower && e.Leader != leader.running().id {
				t.Errorf("%s: refused with leader %q, want %q", test.name, e.Leader, leader.running().id)
			}
		}
		leader.mustGet(key, "")
		// What cannot be understood is refused too.
		for _, frame := range [][]byte{nil, {0}, {99}, {byte(hopPut), 0xff}, {byte(hopScanOpen), 1}, {byte(hopScanNext), 1}, {byte(hopTransfer), '{'}, append([]byte{byte(hopScanOpen)}, 0xff, 0xff, 0xff, 0xff)} {
			_, err := transportHopper{fourth.running().transport}.hop(t.Context(), leader.running().id, frame)
			var e *replication.Error
			if !errors.As(err, &e) || e.Outcome != replication.NotApplied {
				t.Errorf("frame %v: %v", frame, err)
			}
		}
	})
}

// What is known of a hop that failed on its way.
func TestHopErrors(t *testing.T) {
	for _, err := range []error{transport.ErrUnreachable, transport.ErrNoHandler, transport.ErrTooLarge, transport.ErrClosed} {
		if !notDelivered(fmt.Errorf("x: %w", err)) {
			t.Errorf("%v is not taken as definite", err)
		}
	}
	if notDelivered(transport.ErrLost) || notDelivered(context.DeadlineExceeded) {
		t.Error("a lost answer is taken as definite")
	}
}
