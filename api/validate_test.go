package api

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

func TestValidation(t *testing.T) {
	type (
		get    = capstanv1.GetRequest
		put    = capstanv1.PutRequest
		del    = capstanv1.DeleteRequest
		scan   = capstanv1.ScanRequest
		await  = capstanv1.AwaitWriteRequest
		reason = capstanv1.Reason
	)
	const (
		fine     reason = 0
		badKey          = capstanv1.Reason_REASON_BAD_KEY
		badValue        = capstanv1.Reason_REASON_VALUE_TOO_LARGE
		badOpt          = capstanv1.Reason_REASON_BAD_OPTION
		badToken        = capstanv1.Reason_REASON_BAD_TOKEN
	)
	k, longest, tooLong := []byte("k"), make([]byte, MaxKeySize), make([]byte, MaxKeySize+1)
	token := strings.Repeat("t", MaxTokenSize)
	second, negative, invalid := durationpb.New(time.Second), durationpb.New(-time.Second), &durationpb.Duration{Seconds: 1 << 60}
	when := func(c *capstanv1.Condition) *put { return &put{Key: k, Condition: c} }
	version := func(v *capstanv1.Version) *put {
		return when(&capstanv1.Condition{Test: &capstanv1.Condition_Version{Version: v}})
	}
	committed := &capstanv1.Version{Index: 1, Timestamp: 2, Node: "n1-aaaa"}
	for _, c := range []struct {
		name    string
		request any
		want    reason
	}{
		{"get", &get{Key: k}, fine},
		{"longest key", &get{Key: longest}, fine},
		{"key too long", &get{Key: tooLong}, badKey},
		{"no key", &get{}, badKey},
		{"eventual get", &get{Key: k, Consistency: eventual, Replicas: 7}, fine},
		{"bounded get", &get{Key: k, Consistency: bounded, MaxStaleness: second}, fine},
		{"bounded get, bound 0", &get{Key: k, Consistency: bounded, MaxStaleness: durationpb.New(0)}, fine},
		{"bounded get without bound", &get{Key: k, Consistency: bounded}, badOpt},
		{"bound without bounded", &get{Key: k, MaxStaleness: second}, badOpt},
		{"bound on eventual", &get{Key: k, Consistency: eventual, MaxStaleness: second}, badOpt},
		{"negative bound", &get{Key: k, Consistency: bounded, MaxStaleness: negative}, badOpt},
		{"invalid bound", &get{Key: k, Consistency: bounded, MaxStaleness: invalid}, badOpt},
		{"replicas on linearizable", &get{Key: k, Replicas: 1}, badOpt},
		{"replicas on bounded", &get{Key: k, Consistency: bounded, MaxStaleness: second, Replicas: 1}, badOpt},
		{"too many replicas", &get{Key: k, Consistency: eventual, Replicas: 8}, badOpt},
		{"unknown level", &get{Key: k, Consistency: 4}, badOpt},
		{"negative level", &get{Key: k, Consistency: -1}, badOpt},
		{"longest token", &get{Key: k, Session: token}, fine},
		{"token too long", &get{Key: k, Session: token + "t"}, badToken},

		{"put", &put{Key: k}, fine},
		{"put without key", &put{}, badKey},
		{"largest value", &put{Key: k, Value: make([]byte, 1000)}, fine},
		{"value too large", &put{Key: k, Value: make([]byte, 1001)}, badValue},
		{"eventual put", &put{Key: k, Consistency: eventual, Acks: 7}, fine},
		{"too many acks", &put{Key: k, Consistency: eventual, Acks: 8}, badOpt},
		{"acks on linearizable", &put{Key: k, Acks: 1}, badOpt},
		{"bounded put", &put{Key: k, Consistency: bounded}, badOpt},
		{"unknown level of a put", &put{Key: k, Consistency: 4}, badOpt},
		{"condition on eventual", &put{Key: k, Consistency: eventual, Condition: &capstanv1.Condition{}}, badOpt},
		{"absent", when(&capstanv1.Condition{Test: &capstanv1.Condition_Absent{Absent: true}}), fine},
		{"absent false", when(&capstanv1.Condition{Test: &capstanv1.Condition_Absent{}}), badOpt},
		{"present", when(&capstanv1.Condition{Test: &capstanv1.Condition_Present{Present: true}}), fine},
		{"present false", when(&capstanv1.Condition{Test: &capstanv1.Condition_Present{}}), badOpt},
		{"version", version(committed), fine},
		{"tentative version", version(&capstanv1.Version{Timestamp: 2, Node: "n1-aaaa"}), badOpt},
		{"version without node", version(&capstanv1.Version{Index: 1}), badOpt},
		{"no version", version(nil), badOpt},
		{"no test", when(&capstanv1.Condition{}), badOpt},
		{"put token too long", &put{Key: k, Session: token + "t"}, badToken},

		{"delete", &del{Key: k}, fine},
		{"delete without key", &del{}, badKey},
		{"acks on a linearizable delete", &del{Key: k, Acks: 1}, badOpt},
		{"bounded delete", &del{Key: k, Consistency: bounded}, badOpt},
		{"delete token too long", &del{Key: k, Session: token + "t"}, badToken},

		{"scan", &scan{}, fine},
		{"scan range", &scan{Start: []byte("a"), End: []byte("b")}, fine},
		{"scan empty range", &scan{Start: []byte("a"), End: []byte("a")}, fine},
		{"scan open range", &scan{Start: []byte("a")}, fine},
		{"scan backwards", &scan{Start: []byte("b"), End: []byte("a")}, badOpt},
		{"scan prefix and start", &scan{Prefix: k, Start: k}, badOpt},
		{"scan prefix and end", &scan{Prefix: k, End: k}, badOpt},
		{"scan long prefix", &scan{Prefix: tooLong}, badKey},
		{"scan long start", &scan{Start: tooLong}, badKey},
		{"scan long end", &scan{End: tooLong}, badKey},
		{"bounded scan without bound", &scan{Consistency: bounded}, badOpt},
		{"scan token too long", &scan{Session: token + "t"}, badToken},

		{"await", &await{Receipt: token, Wait: durationpb.New(MaxAwait)}, fine},
		{"await nothing", &await{}, badToken},
		{"await too long", &await{Receipt: "r", Wait: durationpb.New(MaxAwait + 1)}, badOpt},
		{"await negative", &await{Receipt: "r", Wait: negative}, badOpt},
		{"receipt too long", &await{Receipt: token + "t"}, badToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			switch r := c.request.(type) {
			case *get:
				err = validateGet(r)
			case *put:
				err = validatePut(r, 1000)
			case *del:
				err = validateDelete(r)
			case *scan:
				err = validateScan(r)
			case *await:
				err = validateAwait(r)
			}
			if c.want == fine {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var f *failure
			if !errors.As(err, &f) {
				t.Fatalf("taken, or another error: %v", err)
			}
			if f.info.Reason != c.want || f.info.Outcome != notAppliedOutcome || f.code.String() != "invalid_argument" {
				t.Errorf("%v %v %v, want %v", f.code, f.info, f.message, c.want)
			}
			if f.message == "" || strings.ToLower(f.message[:1]) != f.message[:1] {
				t.Errorf("message %q", f.message)
			}
		})
	}
}
