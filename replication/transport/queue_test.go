package transport

import (
	"fmt"
	"testing"
)

func TestClassesOvertake(t *testing.T) {
	q := newSendQueue()
	put := func(c class, id uint64, size int) {
		o := newOutgoing(msgCall, c, id)
		o.payload = append(o.payload, make([]byte, size)...)
		if ok, _, _ := q.offer(o); !ok {
			t.Fatalf("class %d did not take %d", c, id)
		}
	}
	take := func() (order string) {
		chunks, _ := q.take(nil)
		for _, k := range chunks {
			order += fmt.Sprint(k.o.id)
			if !k.last {
				order += "+"
			}
			order += " "
		}
		return order
	}
	put(snapshots, 1, maxChunk)
	put(bulk, 2, 3*maxChunk)
	put(bulk, 3, 10)
	put(control, 4, 10)
	if got := take(); got != "4 2+ 2+ " {
		t.Errorf("first write: %s", got)
	}
	put(control, 5, 10)
	if got := take(); got != "5 2 3 " {
		t.Errorf("second write: %s", got)
	}
	// Under a steady load a snapshot gets a turn now and then.
	turns := 0
	for ; turns <= snapshotEvery; turns++ {
		put(bulk, 6, 10)
		if take() == "6 1 " {
			break
		}
	}
	if turns == 0 || turns > snapshotEvery {
		t.Errorf("the snapshot's turn came after %d writes", turns)
	}
}

func TestCloseTellsWhatWasNeverSent(t *testing.T) {
	q := newSendQueue()
	for id := range uint64(3) {
		o := newOutgoing(msgCall, bulk, id+1)
		o.payload = append(o.payload, make([]byte, 3*maxChunk)...)
		q.offer(o)
	}
	q.take(nil) // a part of the first is on its way
	if got := fmt.Sprint(q.close()); got != "[2 3]" {
		t.Errorf("never sent: %s", got)
	}
	if ok, _, closed := q.offer(newOutgoing(msgPing, control, 0)); ok || !closed {
		t.Error("a closed queue took a message")
	}
}
