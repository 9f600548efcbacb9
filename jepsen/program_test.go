package jepsen

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestAskProgram(t *testing.T) {
	for says, want := range map[string]Program{
		`echo '{"version":"v1","revision":"abc","faults":true,"plantable":["x","y"]}'`: {"v1", "abc", true, []string{"x", "y"}},
		`echo '{"version":"v1"}'`: {Version: "v1"},
		`echo capstan v1`:         {},
		`exit 3`:                  {},
	} {
		path := filepath.Join(t.TempDir(), "capstan")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+says+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := AskProgram(t.Context(), path)
		if !reflect.DeepEqual(got, want) || (err == nil) != (want.Version != "") || err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %+v %v", says, got, err)
		}
	}
	if said := (Program{Version: "v1"}).String(); said != "v1" {
		t.Errorf("%q", said)
	}
}
