package session

import (
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

var testCodec = NewCodec("cluster-1", []byte("secret"))

func testToken() *Token {
	t := &Token{}
	t.Saw(1, 900)
	t.Saw(2, 901)
	t.Saw(7, 1<<33)
	t.Tentative(2, dot("n1-k3f9", 4), 800, 1<<60)
	t.Tentative(2, dot("n1-k3f9", 5), 800, 1<<60)
	t.Tentative(9, dot("n2-p7wd", 70), 0, 1<<60)
	return t
}

func mustEncode(t testing.TB, c *Codec, token *Token) string {
	t.Helper()
	text, err := c.Encode(token)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func wantError(t *testing.T, err, want error, what string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func TestNothingIsAnEmptyText(t *testing.T) {
	if text := mustEncode(t, testCodec, &Token{}); text != "" {
		t.Fatalf("an empty token is %q", text)
	}
	if token, err := testCodec.Decode(""); err != nil || !token.Empty() {
		t.Fatalf("%+v, %v", token, err)
	}
}

func TestATokenIsBase64URL(t *testing.T) {
	text := mustEncode(t, testCodec, testToken())
	if strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Fatalf("text %q", text)
	}
}

func TestTokensOfOthersAreRefused(t *testing.T) {
	text := mustEncode(t, testCodec, testToken())
	_, err := NewCodec("cluster-2", []byte("secret")).Decode(text)
	wantError(t, err, ErrForeign, "another cluster")
	_, err = NewCodec("cluster-1", []byte("guess")).Decode(text)
	wantError(t, err, ErrMalformed, "another secret")
	_, err = NewCodec("cluster-1", nil).Decode(text)
	wantError(t, err, ErrMalformed, "no secret")
	if _, err := NewCodec("cluster-1", []byte("secret")).Decode(text); err != nil {
		t.Fatalf("another node of the cluster: %v", err)
	}
}

func TestEveryChangedBitIsNoticed(t *testing.T) {
	receipt, err := testCodec.EncodeReceipt(testReceipt)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"token": mustEncode(t, testCodec, testToken()), "receipt": receipt} {
		sealed, prefixed := strings.CutPrefix(text, receiptPrefix)
		raw, err := base64.RawURLEncoding.DecodeString(sealed)
		if err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			for bit := range 8 {
				raw[i] ^= 1 << bit
				changed := base64.RawURLEncoding.EncodeToString(raw)
				raw[i] ^= 1 << bit
				if prefixed {
					_, err = testCodec.DecodeReceipt(receiptPrefix + changed)
				} else {
					_, err = testCodec.Decode(changed)
				}
				want := ErrMalformed
				if i > 0 && i < headLen {
					want = ErrForeign
				}
				wantError(t, err, want, name)
			}
		}
	}
}

func TestMadeUpTextsAreRefused(t *testing.T) {
	text := mustEncode(t, testCodec, testToken())
	receipt, _ := testCodec.EncodeReceipt(testReceipt)
	for name, made := range map[string]string{
		"joint alone": ".", "joint first": "." + text, "joint last": text + ".", "two joints": text + ".." + text,
		"cut": text[:len(text)-1], "longer": text + "A", "padded": text + "=", "broken line": text[:9] + "\n" + text[9:],
		"short": "AQ", "not base64url": "+++/", "receipt": receipt, "receipt without its name": receipt[3:],
		"token after a stranger": "AAAA." + text,
	} {
		_, err := testCodec.Decode(made)
		wantError(t, err, ErrMalformed, name)
	}
	for name, made := range map[string]string{
		"empty": "", "name alone": "wr_", "token": text, "token with a receipt's name": "wr_" + text,
		"without its name": receipt[3:], "cut": receipt[:len(receipt)-1], "joined": receipt + "." + receipt,
		"long": "wr_" + strings.Repeat("A", 1<<20),
	} {
		_, err := testCodec.DecodeReceipt(made)
		wantError(t, err, ErrMalformed, name)
	}
}

func TestJoinedTokensAreOnePast(t *testing.T) {
	var a, b Token
	a.Saw(1, 5)
	a.Saw(2, 9)
	a.Observe(70)
	b.Saw(1, 6)
	b.Tentative(2, dot("n1", 3), 4, 60)
	for _, text := range []string{
		mustEncode(t, testCodec, &a) + Joint + mustEncode(t, testCodec, &b),
		mustEncode(t, testCodec, &b) + Joint + mustEncode(t, testCodec, &a) + Joint + mustEncode(t, testCodec, &a),
	} {
		whole, err := testCodec.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if whole.Index(1) != 6 || whole.Index(2) != 9 || whole.Highest() != 70 {
			t.Fatalf("indexes %d, %d, highest %d", whole.Index(1), whole.Index(2), whole.Highest())
		}
		wantUndecided(t, whole, 2, run("n1", 3, 3))
	}
}

func TestTheLimitHoldsForAllTogether(t *testing.T) {
	text := mustEncode(t, testCodec, testToken())
	many := strings.Repeat(text+Joint, MaxTokenBytes/len(text)+1) + text
	_, err := testCodec.Decode(many)
	wantError(t, err, ErrTooLarge, "many tokens")
}

// All partitions of the largest cluster, with more writes each than any will see.
func TestAllPartitionsFit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	token := &Token{}
	token.Observe(1 << 63)
	for p := range partition.ID(partition.MaxCount) {
		token.Saw(p, 1<<33+r.Uint64N(1<<33))
	}
	text := mustEncode(t, testCodec, token)
	if len(text) > MaxTokenBytes {
		t.Fatalf("%d bytes", len(text))
	}
	back, err := testCodec.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	for p := range token.Partitions() {
		if back.Index(p) != token.Index(p) {
			t.Fatalf("partition %d: %d, want %d", p, back.Index(p), token.Index(p))
		}
	}
}

// A session that goes on writing while there is no leader, among fifty like it:
// 4,000 of its writes fit, and with the writes between them any number.
func TestManyUndecidedWritesFit(t *testing.T) {
	token := &Token{}
	n := uint64(0)
	write := func() {
		n += 50
		token.Tentative(4, dot("n1-k3f9", n), 12345, 1<<62)
	}
	for range 4000 {
		write()
	}
	mustEncode(t, testCodec, token)
	for token.Size() <= MaxTokenBytes {
		write()
	}
	_, err := testCodec.Encode(token)
	wantError(t, err, ErrTooLarge, "too many writes")
	asked := 0
	token.Widen(4, func(storage.Dot) bool { asked++; return true })
	if asked > maxWidenSteps || asked < maxWidenSteps/2 {
		t.Fatalf("one call asked for %d dots", asked)
	}
	for range n / maxWidenSteps {
		token.Widen(4, func(storage.Dot) bool { return true })
	}
	wantUndecided(t, token, 4, run("n1-k3f9", 50, n))
	if len(mustEncode(t, testCodec, token)) > 100 {
		t.Fatalf("one run takes %d bytes", token.Size())
	}
}

var testReceipt = Receipt{Partition: 9, Dot: dot("n3-w2x8", 12), Base: 41, Timestamp: 1 << 60}

func TestReceiptsComeBack(t *testing.T) {
	for _, r := range []Receipt{
		testReceipt,
		{Dot: dot("n", 1)},
		{
			Partition: partition.MaxCount - 1, Base: 1<<64 - 1, Timestamp: 1<<64 - 1,
			Dot: storage.Dot{Node: partition.NodeID(strings.Repeat("n", 255)), Incarnation: 1<<64 - 1, Sequence: 1<<64 - 1},
		},
	} {
		text, err := testCodec.EncodeReceipt(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := testCodec.DecodeReceipt(text)
		if err != nil || back != r {
			t.Fatalf("%q is %+v, %v; want %+v", text, back, err, r)
		}
		_, err = NewCodec("cluster-2", []byte("secret")).DecodeReceipt(text)
		wantError(t, err, ErrForeign, "another cluster")
		_, err = NewCodec("cluster-1", []byte("guess")).DecodeReceipt(text)
		wantError(t, err, ErrMalformed, "another secret")
	}
	for name, r := range map[string]Receipt{
		"partition": {Partition: partition.MaxCount, Dot: dot("n", 1)},
		"node":      {Dot: storage.Dot{Sequence: 1}},
		"sequence":  {Dot: dot("n", 0)},
	} {
		if text, err := testCodec.EncodeReceipt(r); err == nil {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(mustEncode(f, testCodec, testToken()))
	f.Add(mustEncode(f, testCodec, testToken()) + "." + mustEncode(f, testCodec, testToken()))
	f.Fuzz(func(t *testing.T, text string) {
		token, err := testCodec.Decode(text)
		if err != nil {
			if !errors.Is(err, ErrForeign) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if again := mustEncode(t, testCodec, token); again != text && !strings.Contains(text, Joint) {
			t.Fatalf("%q became %q", text, again)
		}
	})
}

// FuzzToken is what an attacker who knows the secret could send.
func FuzzToken(f *testing.F) {
	f.Add(testToken().append(nil))
	f.Add((&Token{highest: 9}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		token, ok := decodeToken(b)
		if !ok {
			return
		}
		if again := token.append(nil); string(again) != string(b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func FuzzReceipt(f *testing.F) {
	f.Add(testReceipt.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := decodeReceipt(b)
		if !ok {
			return
		}
		if again := r.append(nil); string(again) != string(b) {
			t.Fatalf("%x became %x", b, again)
		}
		if _, err := testCodec.EncodeReceipt(r); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
	})
}

func benchTokens() map[string]*Token {
	one, all := &Token{}, &Token{}
	one.Tentative(3, dot("n1-k3f9", 77), 1e6, 1<<60)
	for p := range partition.ID(partition.MaxCount) {
		all.Saw(p, 1e9+uint64(p))
	}
	return map[string]*Token{"one": one, "all": all}
}

func BenchmarkEncode(b *testing.B) {
	for name, token := range benchTokens() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				mustEncode(b, testCodec, token)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, token := range benchTokens() {
		text := mustEncode(b, testCodec, token)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := testCodec.Decode(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Texts are kept by clients and read by other releases: this encoding never
// changes, a new one gets a new format.
func TestTextsOfTheFirstFormat(t *testing.T) {
	const token = "AbMSiRUAAAAAAAAAEAMBAQMAAAAihAMAABQOAAAAAAAAIAAAAAACB24xLWszZjkHAAAAAAAAAAduMi1wN3dkBwAAAAAAAAACAQEAAQcAAQEBAYoBoJZGLZbceNudSuvQ-9qrAQ"
	const receipt = "wr_AbMSiRUJB24zLXcyeDgHAAAAAAAAAAwpAAAAAAAAABCRDq0VukVLvPvNL10qSnJN"
	if got := mustEncode(t, testCodec, testToken()); got != token {
		t.Errorf("token %q", got)
	}
	if got, err := testCodec.EncodeReceipt(testReceipt); err != nil || got != receipt {
		t.Errorf("receipt %q, %v", got, err)
	}
}
