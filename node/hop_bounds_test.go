package node

import (
	"errors"
	"fmt"
	"testing"

	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/replication/transport"
)

// Forwarded operations of a partition that is stuck leave room for those of others, and
// are refused as not applied.
func TestOnePartitionLeavesRoomForOthers(t *testing.T) {
	s := &hopServer{}
	for range maxPartitionHops {
		if err := s.enter(7); err != nil {
			t.Fatal(err)
		}
	}
	var refused *replication.Error
	if err := s.enter(7); !errors.As(err, &refused) || refused.Outcome != replication.NotApplied || refused.Reason != replication.Overloaded {
		t.Errorf("one more: %v", err)
	}
	if err := s.enter(8); err != nil {
		t.Errorf("another partition: %v", err)
	}
	s.leave(7)
	if err := s.enter(7); err != nil {
		t.Errorf("in the place of one that ended: %v", err)
	}
	if maxPartitionHops*2 > 512 {
		t.Error("one partition must not take all that one peer may")
	}
}

// What was sent may have been done, whatever ended the wait for its answer.
func TestLostIsNeverNotDelivered(t *testing.T) {
	for _, cause := range []error{transport.ErrClosed, transport.ErrUnreachable, transport.ErrNoHandler} {
		if err := fmt.Errorf("%w: %w", transport.ErrLost, cause); notDelivered(err) || definite(err) {
			t.Errorf("%v counts as definite", err)
		}
		if !notDelivered(cause) {
			t.Errorf("%v does not count as definite", cause)
		}
	}
}
