package contract

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestPicture(t *testing.T) {
	h := &History{Ops: []Op{
		{Process: 7, Kind: Put, Key: "a", Value: "1", Invoke: 0, Return: 10},
		{Process: 900, Kind: Put, Key: "a", Value: "2", Condition: IfValue, Expect: "1", Outcome: Unknown, Invoke: 5},
		{Process: 8, Kind: Get, Key: "a", Found: true, Value: "</script>2", Invoke: 20, Return: 30},
		{Process: 8, Kind: Get, Key: "a", Found: true, Value: "2", Invoke: 40, Return: 50},
		{Process: 8, Kind: Put, Key: "b", Value: "elsewhere", Invoke: 60, Return: 70},
	}}
	var page bytes.Buffer
	if err := Picture(&page, h, "a", time.Second); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"put 1"`, `"put 2 if 1: ?"`, `"get: 2"`, `"ClientId":0`, `"ClientId":1`, "process 900"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %s in the picture", want)
		}
	}
	for _, never := range []string{"elsewhere", `"ClientId":2`, `</script>2`} {
		if strings.Contains(page.String(), never) {
			t.Errorf("%s is in the picture", never)
		}
	}
	if Picture(&page, h, "c", time.Second) == nil {
		t.Error("a picture of a key that nobody used")
	}
}
