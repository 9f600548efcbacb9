package storage

import (
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestPeersAreSaved(t *testing.T) {
	fs := vfs.NewMem()
	open := func() *Log {
		l, err := OpenLog(LogOptions{FS: fs, Dir: "log", NodeID: "n1"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	a := PeerRecord{PeerReplica{"n2-abcd", Replica{1, 1}}, []byte("a")}
	b := PeerRecord{PeerReplica{"n3-abcd", Replica{1, 1}}, []byte("b")}
	c := PeerRecord{PeerReplica{"n2-abcd", Replica{300, 7}}, []byte("c")}
	if err := l.SavePeers([]PeerRecord{c, b, a}); err != nil {
		t.Fatal(err)
	}
	b.Record = nil
	if err := l.SavePeers([]PeerRecord{b}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open()
	defer l.Close()
	got, err := l.Peers()
	if want := []PeerRecord{a, c}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if found, err := l.Replicas(); err != nil || len(found) != 0 {
		t.Errorf("replicas %v, %v", found, err)
	}
}
