package replication

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/capstan-kv/capstan/storage"
)

// What hosts say to each other, beside Raft itself. Each message is a count
// (4 bytes) and that many records of fixed size, little endian; a decoder
// takes exactly that. The numbers are part of the protocol between nodes; they
// are below 16, which transports carry ahead of bulk traffic.
const (
	// KindConfirm asks for current terms: (group, generation) each, answered
	// by (exists, term) each, in order.
	KindConfirm uint8 = 1
	// KindReadIndex asks a leader for read indexes: (group, generation of the
	// leader's replica) each, answered by (status, index, notice) each.
	KindReadIndex uint8 = 2
	// KindNotice tells followers what is committed; no answer.
	KindNotice uint8 = 3
	// KindBehind tells a leader that a follower lacks entries: (group,
	// generation of the leader's replica) each; no answer.
	KindBehind uint8 = 4
	// KindSilence asks whether replicas miss their leader: (group, generation)
	// each, answered by (status, log's last term and index, applied index) each, in
	// order.
	KindSilence uint8 = 5
)

// maxRecords a message: no node has that many groups.
const maxRecords = 1 << 16

var errMessage = errors.New("malformed message")

var le = binary.LittleEndian

// records checks the frame of a message and gives its body.
func records(b []byte, size int) (count int, body []byte, err error) {
	if len(b) < 4 {
		return 0, nil, fmt.Errorf("%w: %d bytes", errMessage, len(b))
	}
	n := int64(le.Uint32(b))
	if n > maxRecords || int64(len(b)-4) != n*int64(size) {
		return 0, nil, fmt.Errorf("%w: %d records of %d bytes in %d", errMessage, n, size, len(b)-4)
	}
	return int(n), b[4:], nil
}

func newMessage(count, size int) []byte {
	return le.AppendUint32(make([]byte, 0, 4+count*size), uint32(count))
}

const replicaSize = 8

func appendReplica(b []byte, r storage.Replica) []byte {
	return le.AppendUint32(le.AppendUint32(b, uint32(r.Group)), r.Generation)
}

func replicaAt(b []byte) storage.Replica {
	return storage.Replica{Group: storage.GroupID(le.Uint32(b)), Generation: le.Uint32(b[4:])}
}

func encodeReplicas(replicas []storage.Replica) []byte {
	b := newMessage(len(replicas), replicaSize)
	for _, r := range replicas {
		b = appendReplica(b, r)
	}
	return b
}

func decodeReplicas(b []byte) ([]storage.Replica, error) {
	n, body, err := records(b, replicaSize)
	if err != nil {
		return nil, err
	}
	replicas := make([]storage.Replica, n)
	for i := range replicas {
		replicas[i] = replicaAt(body[i*replicaSize:])
	}
	return replicas, nil
}

// termAnswer is a voter's current term; exists is false for "no such replica".
type termAnswer struct {
	exists bool
	term   uint64
}

const termSize = 9

func encodeTerms(terms []termAnswer) []byte {
	b := newMessage(len(terms), termSize)
	for _, t := range terms {
		b = append(b, flag(t.exists))
		b = le.AppendUint64(b, t.term)
	}
	return b
}

func decodeTerms(b []byte) ([]termAnswer, error) {
	n, body, err := records(b, termSize)
	if err != nil {
		return nil, err
	}
	terms := make([]termAnswer, n)
	for i := range terms {
		r := body[i*termSize:]
		if r[0] > 1 || r[0] == 0 && le.Uint64(r[1:]) != 0 {
			return nil, fmt.Errorf("%w: term record % x", errMessage, r[:termSize])
		}
		terms[i] = termAnswer{exists: r[0] == 1, term: le.Uint64(r[1:])}
	}
	return terms, nil
}

// silenceStatus says whether a replica misses its leader.
type silenceStatus uint8

const (
	silenceNoReplica silenceStatus = iota
	silenceHears
	silenceMisses
	// silenceVotes is silenceMisses of a replica that must not lead.
	silenceVotes
)

// silenceAnswer is a voter's answer to whether it misses its leader, and if it
// does where its log ends and what it has applied.
type silenceAnswer struct {
	status  silenceStatus
	tip     tip
	applied uint64
}

const silenceSize = 25

func encodeSilences(answers []silenceAnswer) []byte {
	b := newMessage(len(answers), silenceSize)
	for _, a := range answers {
		b = le.AppendUint64(le.AppendUint64(append(b, byte(a.status)), a.tip.term), a.tip.index)
		b = le.AppendUint64(b, a.applied)
	}
	return b
}

func decodeSilences(b []byte) ([]silenceAnswer, error) {
	n, body, err := records(b, silenceSize)
	if err != nil {
		return nil, err
	}
	answers := make([]silenceAnswer, n)
	for i := range answers {
		r := body[i*silenceSize:]
		a := silenceAnswer{silenceStatus(r[0]), tip{le.Uint64(r[1:]), le.Uint64(r[9:])}, le.Uint64(r[17:])}
		if a.status > silenceVotes || a.status < silenceMisses && a != (silenceAnswer{status: a.status}) {
			return nil, fmt.Errorf("%w: silence record % x", errMessage, r[:silenceSize])
		}
		answers[i] = a
	}
	return answers, nil
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// notice says that the entry (index, term) is committed, in the words of the
// leader of leaderTerm, which has applied it. The zero notice says nothing.
type notice struct {
	index, term uint64
	leaderTerm  uint64
}

const noticeSize = 24

func appendNotice(b []byte, n notice) []byte {
	return le.AppendUint64(le.AppendUint64(le.AppendUint64(b, n.index), n.term), n.leaderTerm)
}

func noticeAt(b []byte) notice {
	return notice{index: le.Uint64(b), term: le.Uint64(b[8:]), leaderTerm: le.Uint64(b[16:])}
}

// valid: no leader of a term names an entry of a later one, and index 0 is
// the zero notice.
func (n notice) valid() bool {
	if n.index == 0 {
		return n == notice{}
	}
	return n.term > 0 && n.term <= n.leaderTerm
}

// addressed is a notice on its way to one replica.
type addressed struct {
	to   storage.Replica
	from uint32 // generation of the leader's replica
	notice
}

const addressedSize = replicaSize + 4 + noticeSize

func encodeNotices(notices []addressed) []byte {
	b := newMessage(len(notices), addressedSize)
	for _, n := range notices {
		b = le.AppendUint32(appendReplica(b, n.to), n.from)
		b = appendNotice(b, n.notice)
	}
	return b
}

func decodeNotices(b []byte) ([]addressed, error) {
	n, body, err := records(b, addressedSize)
	if err != nil {
		return nil, err
	}
	notices := make([]addressed, n)
	for i := range notices {
		r := body[i*addressedSize:]
		a := addressed{to: replicaAt(r), from: le.Uint32(r[replicaSize:]), notice: noticeAt(r[replicaSize+4:])}
		if !a.valid() {
			return nil, fmt.Errorf("%w: notice %+v", errMessage, a.notice)
		}
		notices[i] = a
	}
	return notices, nil
}

// indexStatus says what became of a request for a read index.
type indexStatus uint8

const (
	indexGiven indexStatus = 1 + iota
	indexNoReplica
	indexNotLeader
	indexUnconfirmed
)

// indexAnswer is a leader's answer to a follower.
type indexAnswer struct {
	status indexStatus
	index  uint64
	notice notice
}

const indexSize = 1 + 8 + noticeSize

func encodeIndexes(answers []indexAnswer) []byte {
	b := newMessage(len(answers), indexSize)
	for _, a := range answers {
		b = append(b, byte(a.status))
		b = appendNotice(le.AppendUint64(b, a.index), a.notice)
	}
	return b
}

func decodeIndexes(b []byte) ([]indexAnswer, error) {
	n, body, err := records(b, indexSize)
	if err != nil {
		return nil, err
	}
	answers := make([]indexAnswer, n)
	for i := range answers {
		r := body[i*indexSize:]
		a := indexAnswer{status: indexStatus(r[0]), index: le.Uint64(r[1:]), notice: noticeAt(r[9:])}
		if a.status < indexGiven || a.status > indexUnconfirmed || !a.notice.valid() {
			return nil, fmt.Errorf("%w: read index record % x", errMessage, r[:indexSize])
		}
		answers[i] = a
	}
	return answers, nil
}
