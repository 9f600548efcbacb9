package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
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

func TestJSONBytesArePaddedBase64(t *testing.T) {
	for text, problem := range map[string]string{
		`{"key":"Y2FydDo0Mg==","value":"YXBwbGU="}`:     "",
		`{"key":"_-8=","value":""}`:                     "",
		`{"key":"cart42"}`:                              `try: "Y2FydDQy" for that text`,
		`{"key":"cart:42"}`:                             `field "key": "cart:42" is not base64`,
		`{"key":"Y2FydDo0Mg=="  ,  "value": "YXBwbGU"}`: `field "value"`,
		`{"key":"a==="}`:                                `field "key"`,
		`{"key":7}`:                                     "invalid value for bytes field",
		`{"valeu":"YXBwbGU="}`:                          "unknown field",
		`{`:                                             "unexpected",
		`{"key":"Y2FydDo0Mg==","consistency":"CONSISTENCY_SLOPPY"}`: "invalid value for enum",
	} {
		err := strictJSON{}.Unmarshal([]byte(text), &capstanv1.PutRequest{})
		if (err == nil) != (problem == "") || err != nil && !strings.Contains(strings.ReplaceAll(err.Error(), "\u00a0", " "), problem) {
			t.Errorf("%s: %v, want %q", text, err, problem)
		}
	}
	batch := `{"ops":[{"get":{"key":"YQ=="}},{"put":{"key":"YQ==","value":"apple"}}]}`
	if err := (strictJSON{}).Unmarshal([]byte(batch), &capstanv1.BatchRequest{}); err == nil || !strings.Contains(err.Error(), `field "value": "apple"`) {
		t.Errorf("in a list: %v", err)
	}
}
