package jepsen

import (
	"reflect"
	"testing"
)

func TestIdentities(t *testing.T) {
	var ids identities
	ids.learn("n1", 0, "n1-a")
	if got := ids.of("n1"); got.id != "n1-a" || ids.everGone("n1") || ids.gone("n1", "n1-a") {
		t.Errorf("n1 is %+v", got)
	}
	asked := ids.of("n1").era
	ids.wiped("n1")
	ids.learn("n1", asked, "n1-a") // an answer from before
	if got := ids.of("n1"); got.id != "" || !ids.everGone("n1") || !ids.gone("n1", "n1-a") {
		t.Errorf("with another disk n1 is %+v", got)
	}
	ids.learn("n1", ids.of("n1").era, "n1-b")
	ids.wiped("n1")
	ids.wiped("n1") // before anybody knew its id
	ids.learn("n2", 0, "n2-a")
	ids.wiped("n2")
	if got, want := ids.allGone(), []string{"n1-a", "n1-b", "n2-a"}; !reflect.DeepEqual(got, want) {
		t.Errorf("gone are %q, want %q", got, want)
	}
}
