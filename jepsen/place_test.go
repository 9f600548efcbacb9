package jepsen

import (
	"testing"

	"github.com/capstan-kv/capstan/jepsen/history"
)

func TestPartitionOf(t *testing.T) {
	// From docs/consistency.md: cart:42 hashes to da207c623d6076c9, cart:43 lies in 12.
	for _, c := range []struct {
		key        string
		partitions int
		want       int
	}{
		{"cart:42", 16, 13}, {"{cart:42}:item:1", 16, 13}, {"a{cart:42}{b}", 16, 13}, {"cart:43", 16, 12},
		{"cart:42", 256, 0xda}, {"cart:42", 1, 0}, {"cart:42", 2, 1},
		{"{}cart:42", 1024, partitionOf("{}cart:42", 1024)},
	} {
		if got := partitionOf(c.key, c.partitions); got != c.want {
			t.Errorf("%q lies in %d of %d, want %d", c.key, got, c.partitions, c.want)
		}
	}
	if string(tagOf([]byte("{}cart:42"))) != "{}cart:42" || string(tagOf([]byte("a{b"))) != "a{b" {
		t.Error("an empty or open tag is none")
	}
}

func TestPlaceOf(t *testing.T) {
	for _, c := range []struct {
		of         history.Func
		key        string
		partitions int
		want       int
	}{
		{history.Get, "cart:42", 16, 13}, {history.Scan, "{cart:42}:", 16, 13},
		{history.Scan, "cart:", 16, -1}, {history.Scan, "{cart", 16, -1}, {history.Scan, "cart:", 1, 0},
	} {
		if got := placeOf(&history.Op{Func: c.of, Key: c.key}, c.partitions); got != c.want {
			t.Errorf("%s of %q in %d partitions: %d, want %d", c.of, c.key, c.partitions, got, c.want)
		}
	}
}
