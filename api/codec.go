package api

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// strictJSON is protobuf's JSON that refuses unknown fields and enum names, as a
// misspelt option must not be taken for none, and bytes that are not padded base64
// (see checkBytes). It writes default values, so
// that "found": false is there to be read, and always the same bytes for the
// same message.
type strictJSON struct{ name string }

// Name implements [connect.Codec].
func (c strictJSON) Name() string { return c.name }

// IsBinary says that the encoding is text.
func (strictJSON) IsBinary() bool { return false }

// Marshal implements [connect.Codec].
func (strictJSON) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", message)
	}
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	compact := bytes.NewBuffer(make([]byte, 0, len(text)))
	err = json.Compact(compact, text) // protojson varies its spaces on purpose
	return compact.Bytes(), err
}

// MarshalStable is Marshal.
func (c strictJSON) MarshalStable(message any) ([]byte, error) { return c.Marshal(message) }

// Unmarshal implements [connect.Codec].
func (strictJSON) Unmarshal(text []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", message)
	}
	if len(text) == 0 {
		return errors.New("no json object; try: {}")
	}
	if err := checkBytes(text, m.ProtoReflect().Descriptor()); err != nil {
		return err
	}
	return protojson.UnmarshalOptions{}.Unmarshal(text, m)
}

func newCompressor() connect.Compressor {
	w, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // a request should not wait for a better ratio
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}

func newDecompressor() connect.Decompressor { return &boundedGzip{} }

// errBomb ends a message that unpacks to more than it may. The runtime would
// unpack the rest to learn its size; the rest may be a thousand times what
// was sent.
var errBomb = errors.New("compressed message unpacks to over 4 MiB")

// boundedGzip stops unpacking a little beyond the limit.
type boundedGzip struct {
	gzip gzip.Reader
	left int64
}

// Read implements [io.Reader].
func (b *boundedGzip) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errBomb
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.gzip.Read(p)
	b.left -= int64(n)
	return n, err
}

// Reset implements [connect.Decompressor].
func (b *boundedGzip) Reset(r io.Reader) error {
	// One byte over is what the runtime needs to see that it is too large; the
	// other is so that this is told from the end.
	b.left = MaxMessageSize + 2
	return b.gzip.Reset(r)
}

// Close implements [connect.Decompressor].
func (b *boundedGzip) Close() error { return b.gzip.Close() }
