package storage

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage/hlc"
)

// Version names one write of one key. Two versions are the same only if all
// three fields are: writes that were proposed together share one log index.
type Version struct {
	Index     uint64           // log index in the key's partition; 0 while tentative
	Timestamp hlc.Timestamp    // given by the accepting node
	Node      partition.NodeID // the accepting node
}

// IsZero reports whether v names no write.
func (v Version) IsZero() bool { return v == Version{} }

// String is the text form "index-timestamp-node".
func (v Version) String() string {
	return strconv.FormatUint(v.Index, 10) + "-" + strconv.FormatUint(uint64(v.Timestamp), 10) + "-" + string(v.Node)
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
	return Version{Index: i, Timestamp: hlc.Timestamp(t), Node: partition.NodeID(node)}, nil
}
