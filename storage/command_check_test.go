package storage

import (
	"bytes"
	"testing"
)

func TestCheckCommand(t *testing.T) {
	put, err := AppendCommand(nil, Command{Kind: CommandPut, Level: LevelLinearizable, Timestamp: 1, Node: "n1", Key: []byte("k"), Value: []byte("v")})
	if err != nil {
		t.Fatal(err)
	}
	floor, _ := AppendFloor(nil, 7)
	for name, c := range map[string]struct {
		b  []byte
		ok bool
	}{
		"put": {put, true}, "floor": {floor, true}, "cut short": {put[:len(put)-1], false},
		"bytes behind it": {append(bytes.Clone(put), 0), false}, "unknown format": {[]byte{200}, false}, "empty": {nil, false},
	} {
		if err := CheckCommand(c.b); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkCheckCommand(b *testing.B) {
	put, err := AppendCommand(nil, Command{Kind: CommandPut, Level: LevelLinearizable, Timestamp: 1, Node: "n1-abcd",
		Key: []byte("user:123456"), Value: make([]byte, 256)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := CheckCommand(put); err != nil {
			b.Fatal(err)
		}
	}
}
