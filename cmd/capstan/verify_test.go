package main

import (
	"strings"
	"testing"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// The exit status says the worst of all partitions; what is not equal is shown.
func TestVerify(t *testing.T) {
	const (
		equal      = capstanv1.ComparisonResult_COMPARISON_RESULT_EQUAL
		different  = capstanv1.ComparisonResult_COMPARISON_RESULT_DIFFERENT
		incomplete = capstanv1.ComparisonResult_COMPARISON_RESULT_INCOMPLETE
	)
	f := newFake(t)
	for _, test := range []struct {
		results []capstanv1.ComparisonResult
		args    []string
		status  int
		stdout  string
	}{
		{[]capstanv1.ComparisonResult{equal, equal}, nil, exitDone, "partitions 2: 2 equal\n"},
		{[]capstanv1.ComparisonResult{incomplete, equal}, []string{"1"}, exitDone, "partitions 1: 1 equal\n"},
		{[]capstanv1.ComparisonResult{incomplete, equal}, nil, exitFailed, "partition 0  incomplete  entry 12\n" +
			"  n1  303132333435  7 records  900 bytes\n  n2  quarantined: its table is damaged\npartitions 2: 1 equal, 1 incomplete\n"},
		{[]capstanv1.ComparisonResult{different, incomplete}, nil, exitNo, ""},
		{[]capstanv1.ComparisonResult{equal}, []string{"x"}, exitUsage, ""},
	} {
		f.compared = test.results
		stdout, stderr, status := shell(t, "", append([]string{"verify", "--endpoints", f.url}, test.args...)...)
		if status != test.status || test.stdout != "" && stdout != test.stdout {
			t.Errorf("%v %v: status %d\n%s%s\nwant %d\n%s", test.results, test.args, status, stdout, stderr, test.status, test.stdout)
		}
	}
	f.compared = []capstanv1.ComparisonResult{equal, different}
	stdout, _, status := shell(t, "", "verify", "-o", "json", "--endpoints", f.url)
	if lines := strings.Split(strings.TrimSpace(stdout), "\n"); status != exitNo || len(lines) != 2 || !strings.Contains(lines[1], `"result":"COMPARISON_RESULT_DIFFERENT"`) {
		t.Errorf("status %d\n%s", status, stdout)
	}
}
