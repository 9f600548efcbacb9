package api

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// The functions of this file say whether a request is one that a backend may
// see. They are pure; nil means yes, anything else is a definite refusal.

const (
	linearizable = capstanv1.Consistency_CONSISTENCY_LINEARIZABLE
	bounded      = capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS
	eventual     = capstanv1.Consistency_CONSISTENCY_EVENTUAL
)

func badOption(format string, args ...any) error {
	return refuse(replication.BadOption, fmt.Sprintf(format, args...))
}

// first is the first refusal among checks.
func first(checks ...error) error {
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

func validateGet(r *capstanv1.GetRequest) error {
	return first(
		validateKey(r.GetKey()),
		validateReadLevel(r.GetConsistency(), r.GetMaxStaleness()),
		validateReplicas(r.GetConsistency(), r.GetReplicas()),
		validateToken("session", r.GetSession()),
	)
}

func validatePut(r *capstanv1.PutRequest, maxValueSize int) error {
	return first(
		validateKey(r.GetKey()),
		validateValueSize(len(r.GetValue()), maxValueSize),
		validateWriteLevel(r.GetConsistency(), r.GetAcks(), r.GetCondition()),
		validateToken("session", r.GetSession()),
	)
}

func validateDelete(r *capstanv1.DeleteRequest) error {
	return first(
		validateKey(r.GetKey()),
		validateWriteLevel(r.GetConsistency(), r.GetAcks(), r.GetCondition()),
		validateToken("session", r.GetSession()),
	)
}

func validateScan(r *capstanv1.ScanRequest) error {
	ranged := len(r.GetStart()) > 0 || len(r.GetEnd()) > 0
	switch {
	case len(r.GetPrefix()) > 0 && ranged:
		return badOption("prefix together with start or end; try: either a prefix, or start and end")
	case len(r.GetEnd()) > 0 && string(r.GetStart()) > string(r.GetEnd()):
		return badOption("scan starts after its end; try: start and end the other way round")
	}
	return first(
		validateBound("prefix", r.GetPrefix()),
		validateBound("start", r.GetStart()),
		validateBound("end", r.GetEnd()),
		validateReadLevel(r.GetConsistency(), r.GetMaxStaleness()),
		validateToken("session", r.GetSession()),
	)
}

func validateAwait(r *capstanv1.AwaitWriteRequest) error {
	if r.GetReceipt() == "" {
		return refuse(replication.BadToken, "no receipt; try: the receipt that an eventual write was answered with")
	}
	wait := r.GetWait()
	if err := validateDuration("wait", wait); err != nil {
		return err
	}
	if wait.AsDuration() > MaxAwait {
		return badOption("wait of %s is over %s; try: ask again when the answer is pending", wait.AsDuration(), MaxAwait)
	}
	return validateToken("receipt", r.GetReceipt())
}

func validateConflicts(r *capstanv1.ListConflictsRequest) error {
	return validateBound("prefix", r.GetPrefix())
}

// validateOps checks a batch as a whole; each operation is judged on its own.
func validateOps(r *capstanv1.BatchRequest) error {
	if n := len(r.GetOps()); n > MaxBatchOps {
		return badOption("batch of %d operations, at most %d; try: several batches", n, MaxBatchOps)
	}
	return validateToken("session", r.GetSession())
}

// validateOp checks one operation of a batch.
func validateOp(op *capstanv1.Operation, maxValueSize int) error {
	var session string
	var err error
	switch op := op.GetOp().(type) {
	case *capstanv1.Operation_Get:
		session, err = op.Get.GetSession(), validateGet(op.Get)
	case *capstanv1.Operation_Put:
		session, err = op.Put.GetSession(), validatePut(op.Put, maxValueSize)
	case *capstanv1.Operation_Delete:
		session, err = op.Delete.GetSession(), validateDelete(op.Delete)
	default:
		return badOption("operation is neither get, put nor delete")
	}
	if session != "" {
		return badOption("session inside a batch's operation; try: the session of the batch itself")
	}
	return err
}

func validateLocate(r *capstanv1.LocateKeyRequest) error { return validateKey(r.GetKey()) }

func validateNode(node string) error {
	const most = 64 // bytes: a name has at most 32, and five more make it an id
	switch {
	case node == "":
		return badOption("no node named; try: a name or id from the cluster's status")
	case len(node) > most:
		return badOption("node name of %d bytes, at most %d", len(node), most)
	}
	return nil
}

func validateCut(r *capstanv1.SetCutRequest) error {
	if n := len(r.GetNodes()); n > MaxCutNodes {
		return badOption("cut from %d nodes, at most %d", n, MaxCutNodes)
	}
	for _, node := range r.GetNodes() {
		if err := validateNode(node); err != nil {
			return err
		}
	}
	return nil
}

func validateTransfer(r *capstanv1.TransferLeadershipRequest) error {
	if r.GetTo() == "" {
		return nil
	}
	return validateNode(r.GetTo())
}

func validateKey(key []byte) error {
	switch {
	case len(key) == 0:
		return refuse(replication.BadKey, "key is empty; try: a key of 1 byte to 4 KiB")
	case len(key) > MaxKeySize:
		return refuse(replication.BadKey, fmt.Sprintf("key of %d bytes is over 4 KiB (%d bytes); try: a hash of it as the key", len(key), MaxKeySize))
	}
	return nil
}

// validateBound checks a prefix or an end of a range, which may be empty.
func validateBound(name string, bound []byte) error {
	if len(bound) > MaxKeySize {
		return refuse(replication.BadKey, fmt.Sprintf("%s of %d bytes is over 4 KiB (%d bytes), longer than any key", name, len(bound), MaxKeySize))
	}
	return nil
}

func validateValueSize(size, most int) error {
	if size > most {
		return refuse(replication.ValueTooLarge, fmt.Sprintf("value of %d bytes is over %d bytes; try: several keys, or a higher --max-value-size", size, most))
	}
	return nil
}

func validateToken(name, token string) error {
	if len(token) > MaxTokenSize {
		return refuse(replication.BadToken, fmt.Sprintf("%s of %d bytes is over 6 KiB (%d bytes); try: pass it on as it was received", name, len(token), MaxTokenSize))
	}
	return nil
}

func validateReadLevel(level capstanv1.Consistency, maxStaleness *durationpb.Duration) error {
	switch level {
	case capstanv1.Consistency_CONSISTENCY_UNSPECIFIED, linearizable, eventual:
		if maxStaleness != nil {
			return badOption("max_staleness fits bounded reads only; try: consistency bounded")
		}
		return nil
	case bounded:
		if maxStaleness == nil {
			return badOption("bounded read without max_staleness; try: a max_staleness such as 5s")
		}
		return validateDuration("max_staleness", maxStaleness)
	}
	return unknownLevel(level)
}

func validateReplicas(level capstanv1.Consistency, replicas uint32) error {
	switch {
	case replicas != 0 && level != eventual:
		return badOption("replicas fits eventual reads only; try: consistency eventual, or no replicas")
	case replicas > MaxReplicas:
		return badOption("replicas %d is over %d, the largest replication factor", replicas, MaxReplicas)
	}
	return nil
}

func validateWriteLevel(level capstanv1.Consistency, acks uint32, condition *capstanv1.Condition) error {
	switch level {
	case capstanv1.Consistency_CONSISTENCY_UNSPECIFIED, linearizable:
		if acks != 0 {
			return badOption("acks fits eventual writes only; a linearizable write is always on a quorum")
		}
		return validateCondition(condition)
	case eventual:
		if condition != nil {
			return badOption("condition on an eventual write, which is blind; try: a linearizable write")
		}
		if acks > MaxAcks {
			return badOption("acks %d is over %d, the largest replication factor", acks, MaxAcks)
		}
		return nil
	case bounded:
		return badOption("bounded is a level for reads; try: a linearizable or an eventual write")
	}
	return unknownLevel(level)
}

func validateCondition(c *capstanv1.Condition) error {
	if c == nil {
		return nil
	}
	switch test := c.GetTest().(type) {
	case *capstanv1.Condition_Absent:
		if !test.Absent {
			return badOption("condition absent is false; try: present")
		}
	case *capstanv1.Condition_Present:
		if !test.Present {
			return badOption("condition present is false; try: absent")
		}
	case *capstanv1.Condition_Version:
		switch {
		case test.Version.GetIndex() == 0:
			return badOption("condition on a tentative version (index 0); try: the version once it is committed")
		case test.Version.GetNode() == "":
			return badOption("condition on a version without node; try: all of index, timestamp and node as they were answered")
		}
	default:
		return badOption("condition without a test; try: absent, present or version")
	}
	return nil
}

func validateDuration(name string, d *durationpb.Duration) error {
	if d == nil {
		return nil
	}
	if d.CheckValid() != nil {
		return badOption("%s is no valid duration", name)
	}
	if d.AsDuration() < 0 {
		return badOption("%s of %s is negative", name, d.AsDuration().Round(time.Nanosecond))
	}
	return nil
}

func unknownLevel(level capstanv1.Consistency) error {
	return badOption("unknown consistency %d; try: linearizable, bounded or eventual", level)
}
