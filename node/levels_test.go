package node

import (
	"strings"
	"testing"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// What asks for another level than linearizable, or for a session, is refused
// before anything is looked at: this router has no ring and no replica.
func TestOtherLevelsAreRefused(t *testing.T) {
	r := &router{}
	ctx, k := t.Context(), []byte("k")
	noEntry := func(*capstanv1.ScanResponse) error { t.Error("a refused scan gave something"); return nil }
	for _, asked := range []struct {
		level   capstanv1.Consistency
		session string
	}{
		{capstanv1.Consistency_CONSISTENCY_EVENTUAL, ""},
		{capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS, ""},
		{capstanv1.Consistency_CONSISTENCY_LINEARIZABLE, "token"},
	} {
		for method, err := range map[string]error{
			"get":    second(r.Get(ctx, &capstanv1.GetRequest{Key: k, Consistency: asked.level, Session: asked.session})),
			"put":    second(r.Put(ctx, &capstanv1.PutRequest{Key: k, Consistency: asked.level, Session: asked.session})),
			"delete": second(r.Delete(ctx, &capstanv1.DeleteRequest{Key: k, Consistency: asked.level, Session: asked.session})),
			"scan":   r.Scan(ctx, &capstanv1.ScanRequest{Consistency: asked.level, Session: asked.session}, noEntry),
		} {
			if err == nil || !strings.Contains(err.Error(), "not offered") {
				t.Errorf("%s at %v with session %q: %v", method, asked.level, asked.session, err)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }
