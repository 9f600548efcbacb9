package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// health answers api.Health.
type health struct{ node *Node }

func (h health) Live() error { return h.node.Err() }

// maxNamed bounds the partitions that one refusal names.
const maxNamed = 8

func (h health) Ready(_ context.Context, level capstanv1.Consistency) error {
	n := h.node
	switch {
	case n.ctx.Err() != nil:
		return errors.New("stopping")
	case n.Err() != nil:
		return n.Err()
	case !n.identity.Initialised():
		return errors.New("not part of a cluster yet")
	case !n.gate.isOpen():
		return errors.New("this start is not registered with the cluster yet: " + n.waitingFor())
	case !n.ring().Placed():
		return errors.New("the cluster has placed no partitions yet")
	}
	if n.control.group.Err() != nil {
		return fmt.Errorf("the replica of the control group has failed: %s; restart the node", oneLine(n.control.group.Err()))
	}
	if lost := n.replicas.allLost(); len(lost) > 0 {
		var names []string
		for _, why := range lost {
			what := "not opened"
			if why.Quarantined {
				what = "quarantined"
			}
			names = append(names, fmt.Sprintf("%d (%s: %s)", why.Partition, what, why.Reason))
		}
		return fmt.Errorf("replicas are out of service, see capstan status: partitions %s", some(names))
	}
	var behind, without []string
	ring := n.ring()
	for p := range ring.Partitions {
		id := partitionID(p)
		if _, mine := ring.Replica(id, n.id); !mine {
			continue
		}
		here := n.replicas.replica(id)
		switch {
		case here == nil:
			behind = append(behind, fmt.Sprintf("%d (not open)", p))
			continue
		case here.group.Err() != nil:
			behind = append(behind, fmt.Sprintf("%d (%v)", p, here.group.Err()))
			continue
		case !here.group.CaughtUp():
			behind = append(behind, fmt.Sprint(p))
		}
		if reachable, needed := here.group.Reachable(); reachable < needed || here.leader() == "" {
			without = append(without, fmt.Sprint(p))
		}
	}
	if len(behind) > 0 {
		return fmt.Errorf("not caught up: partitions %s", some(behind))
	}
	if level == capstanv1.Consistency_CONSISTENCY_LINEARIZABLE && len(without) > 0 {
		return fmt.Errorf("no leader or no quorum: partitions %s", some(without))
	}
	return nil
}

func some(names []string) string {
	if len(names) > maxNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
	}
	return strings.Join(names, ", ")
}
