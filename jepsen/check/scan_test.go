package check

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

const tagged = "scan/{0}/"

// scanned gives "a=1 b=2".
func scanned(text string, from, to int, more ...change) history.Op {
	o := operation("scan", history.Linearizable, history.Scan, tagged, "", from, to)
	for _, e := range strings.Fields(text) {
		key, value, _ := strings.Cut(e, "=")
		o.Entries = append(o.Entries, history.Entry{Key: tagged + key, Value: value})
	}
	for _, m := range more {
		m(&o)
	}
	return o
}

func tagPut(key, value string, from, to int, more ...change) history.Op {
	return operation("scan", history.Linearizable, history.Put, tagged+key, value, from, to, more...)
}

func tagGet(key, value string, from, to int, more ...change) history.Op {
	return operation("scan", history.Linearizable, history.Get, tagged+key, value, from, to, more...)
}

func tagDel(key string, from, to int, more ...change) history.Op {
	return operation("scan", history.Linearizable, history.Delete, tagged+key, "", from, to, more...)
}

func TestScanStories(t *testing.T) {
	a, b := tagPut("a", "1", 0, 1), tagPut("b", "2", 2, 3)
	tell(t, "scan", []story{
		{name: "one after the other", h: told(scanned("", 0, 1), tagPut("a", "1", 1, 2), scanned("a=1", 3, 4), b, tagGet("b", "2", 5, 6), scanned("a=1 b=2", 5, 6), tagDel("a", 7, 8), scanned("b=2", 9, 10))},
		{name: "any moment of two writes", h: told(tagPut("a", "1", 0, 9), tagPut("b", "2", 0, 9), scanned("b=2", 3, 4), scanned("a=1 b=2", 5, 6))},
		{name: "a write without an answer", h: told(a, tagPut("b", "2", 2, 3, info), scanned("a=1", 4, 5), scanned("a=1 b=2", 6, 7), tagDel("a", 6, 7, info), scanned("a=1 b=2", 8, 9), scanned("b=2", 10, 11))},
		{name: "a bounded one of the past", h: told(a, b, scanned("a=1", 5, 6, within(4, 3)))},
		{name: "refused", h: told(a, tagPut("b", "2", 2, 3, failed), scanned("", 4, 5, failed), scanned("a=1", 4, 5))},
		{name: "stale", h: told(a, b, scanned("a=1", 5, 6)), checker: "one moment", why: "no moments"},
		{name: "torn", h: told(a, b, tagPut("a", "3", 4, 5), tagPut("b", "4", 6, 9), scanned("a=1 b=4", 6, 9)), checker: "one moment", why: "no moments"},
		{name: "two moments of two scans", h: told(tagPut("a", "1", 0, 9), tagPut("b", "2", 0, 9), scanned("b=2", 1, 8), scanned("a=1", 1, 8)), checker: "one moment", why: "no moments"},
		{name: "a bounded one of two moments", h: told(a, b, tagPut("a", "3", 4, 5), tagPut("b", "4", 6, 7), scanned("a=1 b=4", 8, 9, within(60, 1))), checker: "one moment", why: "no moments"},
		{name: "beyond the bound", h: told(a, b, scanned("a=1", 9, 10, within(4, 3))), checker: "one moment", why: "no moments"},
		{name: "older than it says", h: told(a, b, scanned("a=1", 6, 7, within(4, 1))), checker: "one moment", why: "no moments"},
		{name: "it says that it is too old", h: told(a, b, scanned("a=1 b=2", 6, 7, within(4, 5))), checker: "answers", why: "it is 5s old, and may be 4s old"},
		{name: "a deleted key", h: told(a, tagDel("a", 2, 3), scanned("a=1", 4, 5)), checker: "one moment", why: "no moments"},
		{name: "a get behind a scan", h: told(a, tagPut("a", "2", 2, 9), scanned("a=2", 3, 4), tagGet("a", "1", 5, 6)), checker: "one moment", why: "no moments"},
		{name: "out of order", h: told(a, b, scanned("b=2 a=1", 5, 6)), checker: "answers", why: "comes after"},
		{name: "twice", h: told(a, scanned("a=1 a=1", 5, 6)), checker: "answers", why: "comes after"},
		{name: "never written", h: told(a, scanned("a=9", 5, 6)), checker: "answers", why: "never written"},
		{name: "another key's", h: told(a, scanned("c=1", 5, 6)), checker: "answers", why: "never written"},
		{name: "refused, and read", h: told(a, tagPut("a", "2", 2, 3, failed), scanned("a=2", 4, 5)), checker: "answers", why: "refused"},
		{name: "before it was written", h: told(scanned("a=1", 0, 1), tagPut("a", "1", 2, 3)), checker: "answers", why: "later"},
		{name: "not asked for", h: told(a, func() history.Op {
			o := scanned("", 4, 5)
			o.Entries = []history.Entry{{Key: "scan/{1}/a", Value: "1"}}
			return o
		}()), checker: "answers", why: "not asked for"},
	})
}

// A key is judged in no time, with the writes that stayed unanswered in a long cut.
func TestScanOfManyUnansweredWrites(t *testing.T) {
	var ops []history.Op
	for i := range 150 {
		ops = append(ops, tagPut("a", fmt.Sprint("u", i), 3*i, 3*i+1, info), tagPut("b", fmt.Sprint("v", i), 3*i, 3*i+1), scanned(fmt.Sprintf("b=v%d", i), 3*i+2, 3*i+3))
	}
	began := time.Now()
	if r := Check(told(ops...), Options{Least: 1, Patience: 5 * time.Second}); r.Verdict != Holds {
		t.Errorf("%s: %s", r.Verdict, r.Sentence)
	}
	t.Log(time.Since(began))
}
