package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"
)

var (
	// ErrForeign: the token or receipt was given by another cluster.
	ErrForeign = errors.New("it is of another cluster")
	// ErrMalformed: no node has given such a token or receipt, or it was changed since.
	ErrMalformed = errors.New("it is none that was given, or was changed")
	// ErrTooLarge: the token's text would be longer than [MaxTokenBytes].
	ErrTooLarge = errors.New("the session has more of a past than fits into a token")
)

// MaxTokenBytes bounds the text of a token, and of several joined ones
// together. The public interface has the same limit.
const MaxTokenBytes = 6 << 10

// Joint stands between tokens that are one request's past: base64url has no
// such character.
const Joint = "."

// A text is the base64url, without padding, of
//
//	format (1) = 1 | cluster (4) | what it carries | authentication (16)
//
// The cluster field is part of a hash of the cluster's id, in clear, to tell a
// token of another cluster from a damaged one. The authentication is the first
// half of an HMAC-SHA256 over a purpose and everything before it.
const (
	textFormat  = 1
	clusterLen  = 4
	headLen     = 1 + clusterLen
	authLen     = 16
	textOutside = headLen + authLen
)

// purpose keeps a token from being taken for a receipt, and the other way round.
type purpose byte

const (
	forToken   purpose = 't'
	forReceipt purpose = 'r'
)

// Codec turns tokens and receipts into texts and back. All nodes of a cluster
// have an equal one, so any of them reads what another has given. It is safe for
// concurrent use.
type Codec struct {
	head [headLen]byte
	auth sync.Pool // of hash.Hash, keyed
}

// NewCodec is that of the cluster. Whoever knows the secret can make tokens and
// receipts: with them a client gets no data that it may not read, but it could
// have nodes wait for what never comes.
func NewCodec(clusterID string, secret []byte) *Codec {
	c := &Codec{}
	id := sha256.Sum256([]byte("capstan cluster " + clusterID))
	c.head[0] = textFormat
	copy(c.head[1:], id[:])
	derived := hmac.New(sha256.New, secret)
	derived.Write([]byte("capstan session " + clusterID))
	key := derived.Sum(nil)
	c.auth.New = func() any { return hmac.New(sha256.New, key) }
	return c
}

// Encode is the token's text, which needs no escaping in a URL or a header; ""
// for an empty token. [ErrTooLarge] if it is longer than MaxTokenBytes;
// other errors say what the token was given that can not be.
func (c *Codec) Encode(t *Token) (string, error) {
	switch {
	case t.failed != nil:
		return "", t.failed
	case t.Empty():
		return "", nil
	}
	raw := t.append(c.open(256))
	if size := textLen(len(raw) + authLen); size > MaxTokenBytes {
		return "", fmt.Errorf("session token of %d bytes, at most %d: %w", size, MaxTokenBytes, ErrTooLarge)
	}
	return c.seal(forToken, raw), nil
}

// Size is how long the text of t would be, however long that is. Who is about
// to add to a token, and must not lose what it added, asks before.
func (t *Token) Size() int {
	if t.Empty() {
		return 0
	}
	return textLen(textOutside + len(t.append(nil)))
}

func textLen(raw int) int { return base64.RawURLEncoding.EncodedLen(raw) }

// Decode reads what a request sent as its session: nothing, a token, or several
// of them with [Joint] between, which are merged. The error is [ErrForeign],
// [ErrMalformed] or [ErrTooLarge].
func (c *Codec) Decode(text string) (*Token, error) {
	if len(text) > MaxTokenBytes {
		return nil, fmt.Errorf("session token of %d bytes, at most %d: %w", len(text), MaxTokenBytes, ErrTooLarge)
	}
	whole := &Token{}
	if text == "" {
		return whole, nil
	}
	for one := range strings.SplitSeq(text, Joint) {
		carried, err := c.unseal(forToken, one)
		if err != nil {
			return nil, fmt.Errorf("session token: %w", err)
		}
		t, ok := decodeToken(carried)
		if !ok {
			return nil, fmt.Errorf("session token: %w", ErrMalformed)
		}
		if whole.Empty() {
			whole = t
			continue
		}
		whole.Merge(t)
	}
	return whole, nil
}

// open begins a text, with room for what it is to carry.
func (c *Codec) open(room int) []byte { return append(make([]byte, 0, room+authLen), c.head[:]...) }

func (c *Codec) seal(p purpose, raw []byte) string {
	auth := c.authOf(p, raw)
	return base64.RawURLEncoding.EncodeToString(append(raw, auth[:]...))
}

// strict refuses all but one text for the same bytes.
var strict = base64.RawURLEncoding.Strict()

// unseal is what a text carries.
func (c *Codec) unseal(p purpose, text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") { // the decoder would pass over them
		return nil, ErrMalformed
	}
	raw, err := strict.DecodeString(text)
	if err != nil || len(raw) < textOutside || raw[0] != textFormat {
		return nil, ErrMalformed
	}
	if [headLen]byte(raw) != c.head {
		return nil, ErrForeign
	}
	covered, given := raw[:len(raw)-authLen], raw[len(raw)-authLen:]
	if auth := c.authOf(p, covered); !hmac.Equal(auth[:], given) {
		return nil, ErrMalformed
	}
	return covered[headLen:], nil
}

func (c *Codec) authOf(p purpose, covered []byte) (auth [authLen]byte) {
	h := c.auth.Get().(hash.Hash)
	defer c.auth.Put(h)
	h.Reset()
	h.Write([]byte{byte(p)})
	h.Write(covered)
	var sum [sha256.Size]byte
	copy(auth[:], h.Sum(sum[:0]))
	return auth
}
