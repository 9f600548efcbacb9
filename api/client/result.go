package client

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// Version names one write of one key. Two are the same only if all three fields
// are. The zero Version names none.
type Version struct {
	Index     uint64 // log index in the key's partition; 0 while tentative
	Timestamp uint64 // hybrid logical clock, not Unix time
	Node      string // id of the node that accepted the write
}

// String is the text form "index-timestamp-node".
func (v Version) String() string {
	return strconv.FormatUint(v.Index, 10) + "-" + strconv.FormatUint(v.Timestamp, 10) + "-" + v.Node
}

// ParseVersion reads the text form.
func ParseVersion(s string) (Version, error) {
	index, rest, ok1 := strings.Cut(s, "-")
	timestamp, node, ok2 := strings.Cut(rest, "-")
	i, err1 := strconv.ParseUint(index, 10, 64)
	t, err2 := strconv.ParseUint(timestamp, 10, 64)
	if !ok1 || !ok2 || node == "" || cmp.Or(err1, err2) != nil {
		return Version{}, fmt.Errorf("version %q is not of the form index-timestamp-node", s)
	}
	return Version{Index: i, Timestamp: t, Node: node}, nil
}

func (v Version) message() *capstanv1.Version {
	return &capstanv1.Version{Index: v.Index, Timestamp: v.Timestamp, Node: v.Node}
}

func versionOf(m *capstanv1.Version) Version {
	return Version{Index: m.GetIndex(), Timestamp: m.GetTimestamp(), Node: m.GetNode()}
}

// Freshness says who answered a read and how old the answer may be.
type Freshness struct {
	ServedBy  string // node name
	Tentative bool   // this version is not committed yet
	// Staleness is an upper bound, if Known.
	Staleness time.Duration
	Known     bool
}

func FreshnessOf(m *capstanv1.Freshness) Freshness {
	return Freshness{
		ServedBy:  m.GetServedBy(),
		Tentative: m.GetTentative(),
		Staleness: m.GetStaleness().AsDuration(),
		Known:     m.GetStaleness() != nil,
	}
}

// GetResult is the answer to a Get. A key that is not there is an answer, not
// an error: Found is false.
type GetResult struct {
	Found     bool
	Value     []byte
	Version   Version
	Freshness Freshness
	Session   string // if one was given, see the Session option

	message *capstanv1.GetResponse
}

// Message is the answer as it came; not to be changed.
func (r *GetResult) Message() *capstanv1.GetResponse { return r.message }

func getResult(m *capstanv1.GetResponse) *GetResult {
	return &GetResult{
		Found: m.GetFound(), Value: m.GetValue(), Version: versionOf(m.GetVersion()),
		Freshness: FreshnessOf(m.GetFreshness()), Session: m.GetSession(), message: m,
	}
}

// PutResult is the answer to a Put.
type PutResult struct {
	Version  Version
	ServedBy string
	Session  string // if one was given, see the Session option
	// Receipt and Base (the log index that the node had heard of) belong to
	// eventual writes.
	Receipt string
	Base    uint64

	message *capstanv1.PutResponse
}

// Message is the answer as it came; not to be changed.
func (r *PutResult) Message() *capstanv1.PutResponse { return r.message }

func putResult(m *capstanv1.PutResponse) *PutResult {
	return &PutResult{
		Version: versionOf(m.GetVersion()), ServedBy: m.GetServedBy(), Session: m.GetSession(),
		Receipt: m.GetReceipt(), Base: m.GetBase(), message: m,
	}
}

// DeleteResult is the answer to a Delete.
type DeleteResult struct {
	Version  Version
	ServedBy string
	Session  string // if one was given, see the Session option
	// Existed says whether there was something to delete; nil where that is
	// not known: an eventual delete looks at nothing.
	Existed *bool
	Receipt string
	Base    uint64

	message *capstanv1.DeleteResponse
}

// Message is the answer as it came; not to be changed.
func (r *DeleteResult) Message() *capstanv1.DeleteResponse { return r.message }

func deleteResult(m *capstanv1.DeleteResponse) *DeleteResult {
	return &DeleteResult{
		Version: versionOf(m.GetVersion()), ServedBy: m.GetServedBy(), Session: m.GetSession(),
		Existed: m.Existed, Receipt: m.GetReceipt(), Base: m.GetBase(), message: m,
	}
}

// Entry is one key of a scan.
type Entry struct {
	Key, Value []byte
	Version    Version
}
