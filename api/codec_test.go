package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"
)

// The runtime reads what is over the limit to its end, to tell how much it
// was: the decompressor has to end it.
func TestUnpackingEndsAtTheLimit(t *testing.T) {
	pack := func(size int) io.Reader {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return &packed
	}
	unpacker := newDecompressor()
	for range 2 { // they are used again
		if err := unpacker.Reset(pack(3 * MaxMessageSize)); err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, unpacker)
		if !errors.Is(err, errBomb) || n > MaxMessageSize+2 {
			t.Errorf("unpacked %d bytes: %v", n, err)
		}
		if err := unpacker.Reset(pack(MaxMessageSize)); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, unpacker); n != MaxMessageSize || err != nil {
			t.Errorf("unpacked %d bytes: %v", n, err)
		}
	}
}
