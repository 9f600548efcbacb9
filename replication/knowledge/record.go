package knowledge

import (
	"encoding/binary"
	"fmt"
)

// A record on disk is format (1) = 1 | opening | term | acked | end's term |
// end's index | voted, each of 8 bytes, big endian. Its checksum is the database's.
const (
	recordFormat = 1
	recordLen    = 1 + 6*8
)

// Encode is the record as it is saved.
func (r Record) Encode() []byte {
	b := append(make([]byte, 0, recordLen), recordFormat)
	for _, v := range []uint64{r.Opening, r.Shown.Term, r.Shown.Acked, r.Shown.End.Term, r.Shown.End.Index, r.Shown.Voted} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// DecodeRecord is the inverse of [Record.Encode].
func DecodeRecord(b []byte) (Record, error) {
	if len(b) != recordLen || b[0] != recordFormat {
		return Record{}, fmt.Errorf("what a peer has shown: record of %d bytes or unknown format", len(b))
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	return Record{Opening: at(0), Shown: Shown{Term: at(1), Acked: at(2), End: Entry{Term: at(3), Index: at(4)}, Voted: at(5)}}, nil
}
