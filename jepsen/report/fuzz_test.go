package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// A history comes from anywhere: whatever stands in it, there is a page, and it is
// inert.
func FuzzWrite(f *testing.F) {
	for _, text := range []string{
		`{"type":"run","at":0,"run":{"format":1,"nodes":["n1"],"time_limit":-9223372036854775808,"schedule":[{}]}}` + "\n" +
			`{"type":"invoke","at":1,"op":{"id":0,"f":"get","level":"eventual","key":"a","node":"n1"}}` + "\n" +
			`{"type":"ok","at":9223372036854775807,"op":{"id":0,"f":"get","level":"eventual","key":"a","node":"n1","outcome":"ok","staleness":-9223372036854775808,"staleness_known":true}}` + "\n",
		`{"type":"run","at":0,"run":{"format":1,"planted":"<script>","lab":"x"}}` + "\n" + `{"type":"fault","at":5,"fault":{"number":-1,"kind":"<img src=x>","nodes":["n1"]}}` + "\n" +
			`{"type":"healed","at":7,"fault":{"number":-1,"kind":"kill"}}` + "\n" + `{"type":"trouble","at":9,"trouble":{"node":"n1","what":"<script>"}}` + "\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := history.Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		r := &check.Result{Verdict: check.Violated, Findings: []check.Finding{{Why: "<script>"}}}
		for _, o := range h.Ops {
			r.Findings[0].Ops = append(r.Findings[0].Ops, check.Shown{Op: o, Invoke: o.Invoke, Return: o.Return})
		}
		var page bytes.Buffer
		if err := Write(&page, h, r, Options{Repeat: h.Run.Command}); err != nil {
			t.Fatal(err)
		}
		for _, never := range []string{"<script", "<img", "ZgotmplZ", "NaN"} {
			if strings.Contains(page.String(), never) && !bytes.Contains(text, []byte(never)) {
				t.Errorf("the page has %s", never)
			}
		}
		for _, never := range []string{"<script", "<img"} {
			if strings.Contains(page.String(), never) {
				t.Errorf("the page has %s", never)
			}
		}
	})
}

func TestLongestRunThereIs(t *testing.T) {
	a := newAxis(1<<63 - 1)
	if a.count < 1 || a.count > mostBuckets || len(a.ticks()) > 12 || a.seconds(a.count-1) <= 0 {
		t.Errorf("%+v, %v", a, a.ticks())
	}
	if got := span(-1 << 63); !strings.HasPrefix(got, "-") {
		t.Errorf("%q", got)
	}
	if got := clock(time.Duration(1<<63 - 1)); got == "" {
		t.Error("no time")
	}
}
