package bend

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestControlIsReadAsWritten(t *testing.T) {
	whole := Control{
		Generation: 7, ClockOffsetMS: -3_600_000, ClockDriftPPM: 500, DiskFull: true, SyncDelayMS: 250, SyncError: true, Volatile: true,
	}
	got, err := decodeControl([]byte(` {"generation":7, "clock_offset_ms":-3600000,"clock_drift_ppm":500,"disk_full":true,
		"sync_delay_ms":250,"sync_error":true,"volatile":true}
	`))
	if err != nil || got != whole {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := decodeControl([]byte(`{}`)); err != nil || got != (Control{}) {
		t.Errorf("an empty object: %+v, %v", got, err)
	}
}

func TestControlThatIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		``:                                  "not a JSON object",
		`null`:                              "not a JSON object",
		`[]`:                                "not a JSON object",
		`{"disk_full":true`:                 "unexpected EOF",
		`{"disk_fill":true}`:                `unknown field "disk_fill"`,
		`{"disk_full":1}`:                   "cannot unmarshal",
		`{"disk_full":true} {}`:             "more than one",
		`{"disk_full":true},`:               "more than one",
		`{"generation":-1}`:                 "cannot unmarshal",
		`{"clock_offset_ms":315360000001}`:  "clock_offset_ms is 315360000001",
		`{"clock_offset_ms":-315360000001}`: "clock_offset_ms",
		`{"clock_drift_ppm":1000001}`:       "clock_drift_ppm",
		`{"clock_drift_ppm":-1000001}`:      "clock_drift_ppm",
		`{"sync_delay_ms":-1}`:              "sync_delay_ms",
		`{"sync_delay_ms":60001}`:           "sync_delay_ms",
		`{}` + strings.Repeat(" ", maxControlBytes): "over 4096 bytes",
	} {
		if got, err := decodeControl([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %+v, %v; want %q", text, got, err, want)
		}
	}
}

// What is taken is within bounds, and says the same when it is written again.
func FuzzControl(f *testing.F) {
	f.Add([]byte(`{"generation":1,"clock_offset_ms":5000,"clock_drift_ppm":-200,"disk_full":true,"sync_delay_ms":50,"sync_error":true,"volatile":true}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"clock_offset_ms":1e3}`))
	f.Add([]byte(`{"disk_full":true}{`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := decodeControl(text)
		if err != nil {
			return
		}
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeControl(again); err != nil || got != c {
			t.Errorf("%s: %+v, %v", again, got, err)
		}
	})
}
