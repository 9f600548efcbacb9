package client

import (
	"testing"
	"time"
)

// The rule is public: other clients compute the same.
func TestPartitionOf(t *testing.T) {
	tests := []struct {
		key        string
		partitions int
		want       uint32
	}{
		{"", 1, 0},
		{"abc", 1, 0},
		{"", 16, 0xe},                  // XXH64("") = ef46db3751d8e999
		{"a", 16, 0xd},                 // XXH64("a") = d24ec4f1a98c6e5b
		{"abc", 16, 0x4},               // XXH64("abc") = 44bc2cf5ad770999
		{"abc", 1024, 0x44bc >> 6},     // its first ten bits
		{"x{abc}y", 1024, 0x44bc >> 6}, // the tag alone counts
		{"{abc}{a}", 1024, 0x44bc >> 6},
	}
	for _, test := range tests {
		if got := partitionOf([]byte(test.key), test.partitions); got != test.want {
			t.Errorf("partition of %q of %d is %d, want %d", test.key, test.partitions, got, test.want)
		}
	}
	for key, want := range map[string]string{"{}x": "{}x", "a{": "a{", "a}b{c": "a}b{c", "{{a}}": "{a", "{a}b": "a"} {
		if got := string(hashTag([]byte(key))); got != want {
			t.Errorf("tag of %q is %q, want %q", key, got, want)
		}
	}
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	var sum time.Duration
	for attempt := 1; attempt < DefaultMaxAttempts; attempt++ {
		sum += backoff(attempt) / 2
	}
	if backoff(1) != backoffFirst || backoff(1000) != backoffMost {
		t.Errorf("from %s to %s", backoff(1), backoff(1000))
	}
	if sum < 1500*time.Millisecond || sum > 4*time.Second {
		t.Errorf("the default attempts wait %s on average; an election takes about two seconds", sum)
	}
}
