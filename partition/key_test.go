package partition_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/partition"
)

func TestTag(t *testing.T) {
	for _, c := range []struct{ key, tag string }{
		{"cart:42", "cart:42"},
		{"{user1000}.following", "user1000"},
		{"a{user1000}b", "user1000"},
		{"foo{}{bar}", "foo{}{bar}"}, // the first pair is empty: the whole key
		{"foo{{bar}}zap", "{bar"},    // from the first '{' to the next '}'
		{"foo{bar}{zap}", "bar"},
		{"foo{bar", "foo{bar"},
		{"foo}bar{", "foo}bar{"},
		{"}{a}", "a"},
		{"{}", "{}"},
		{"{", "{"},
		{"", ""},
		{"{\x00}", "\x00"},
		{"{\xff\xfe}x", "\xff\xfe"},
	} {
		if got := partition.Tag([]byte(c.key)); string(got) != c.tag {
			t.Errorf("Tag(%q) = %q, want %q", c.key, got, c.tag)
		}
	}
}

// These vectors are for ever: a change loses sight of every key on disk. The
// first three are the published ones of XXH64 with seed 0.
func TestHashIsForEver(t *testing.T) {
	for _, c := range []struct {
		key  string
		hash uint64
	}{
		{"", 0xef46db3751d8e999},
		{"a", 0xd24ec4f1a98c6e5b},
		{"abc", 0x44bc2cf5ad770999},
		{"{abc}", 0x44bc2cf5ad770999},
		{"x{abc}{y}", 0x44bc2cf5ad770999},
		{"cart:42", 0xda207c623d6076c9},
		{"note:7", 0x88146abb3e7df727},
		{"foo{}{bar}", 0x4a31504e13b4bde2},
		{"\x00\xff", 0xe0d97d9a03131d7d},
		{strings.Repeat("0123456789", 10), 0xf80e7b96315afffa},
	} {
		if got := partition.Hash([]byte(c.key)); got != c.hash {
			t.Errorf("Hash(%q) = %#016x, want %#016x", c.key, got, c.hash)
		}
	}
}

func TestOfTakesTheTopBits(t *testing.T) {
	key := []byte("abc") // 0x44bc...: 0100 0100 1011 1100
	for partitions, want := range map[int]partition.ID{1: 0, 2: 0, 4: 1, 16: 4, 256: 0x44, 1024: 0x112} {
		if got := partition.Of(key, partitions); got != want {
			t.Errorf("Of(abc, %d) = %d, want %d", partitions, got, want)
		}
	}
}

func TestValidCount(t *testing.T) {
	for _, n := range []int{1, 2, 4, 16, 512, 1024} {
		if err := partition.ValidCount(n); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []int{-16, -1, 0, 3, 6, 1000, 1023, 2048, 1 << 40} {
		if partition.ValidCount(n) == nil {
			t.Errorf("%d partitions were accepted", n)
		}
	}
}

// 16 partitions of 64,000 keys: 4,000 each, standard deviation 61.
func TestKeysSpreadEvenly(t *testing.T) {
	for _, format := range []string{"cart:%d", "%d", "user/%08d/profile", "{tenant-%d}:x"} {
		var counts [16]int
		for i := range 64_000 {
			counts[partition.Of(fmt.Appendf(nil, format, i), 16)]++
		}
		for p, n := range counts {
			if n < 3700 || n > 4300 {
				t.Errorf("%s: partition %d holds %d of 64,000 keys", format, p, n)
			}
		}
	}
}

func FuzzTagAndOf(f *testing.F) {
	for _, s := range []string{"", "a", "{a}", "{}", "{}{a}", "{{a}}", "}{", "{a", "\x00{\xff}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, key []byte) {
		before := bytes.Clone(key)
		tag := partition.Tag(key)
		if !bytes.Equal(before, key) {
			t.Fatal("the key was changed")
		}
		// Redis Cluster's rule once more, in other words.
		want := string(key)
		if _, rest, ok := strings.Cut(want, "{"); ok {
			if inner, _, ok := strings.Cut(rest, "}"); ok && inner != "" {
				want = inner
			}
		}
		if string(tag) != want {
			t.Fatalf("Tag(%q) = %q, want %q", key, tag, want)
		}
		if len(tag) > 0 && !bytes.ContainsAny(tag, "{}") {
			if h := partition.Hash(append(append([]byte("x{"), tag...), '}', 'y')); h != partition.Hash(key) {
				t.Fatalf("%q and its tag are apart", key)
			}
		}
		for n := 1; n <= partition.MaxCount; n *= 2 {
			p := partition.Of(key, n)
			if int(p) >= n {
				t.Fatalf("Of(%q, %d) = %d", key, n, p)
			}
			if n > 1 && partition.Of(key, n/2) != p/2 {
				t.Fatalf("Of(%q): %d of %d is not inside %d of %d", key, p, n, partition.Of(key, n/2), n/2)
			}
		}
	})
}
