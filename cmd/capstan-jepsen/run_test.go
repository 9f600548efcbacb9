package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/nemesis"
	"github.com/capstan-kv/capstan/jepsen/workload"
)

// binary is something that can be executed.
func binary(t *testing.T, plantable ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "capstan")
	must(t, os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\necho '{\"plantable\":%s}'\n", strings.ReplaceAll(fmt.Sprintf("%q", plantable), " ", ",")), 0o755))
	return path
}

func TestUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	s := newShell(recorded(t, 100, false))
	b := binary(t)
	for _, c := range []struct {
		args string
		want []string
	}{
		{"rum", []string{"unknown command", "capstan-jepsen run"}},
		{"list more", []string{`takes no arguments, got "more"`}},
		{"list -o yaml", []string{`not "yaml"`}},
		{"check", []string{"one argument, HISTORY, got 0"}},
		{"check nowhere", []string{"nowhere", "capstan-jepsen run records one"}},
		{"check " + b, []string{"is no history"}},
		{"check --patience 0s x", []string{"--patience"}},
		{"run --sed 4", []string{"unknown flag: --sed", "capstan-jepsen run --help"}},
		{"run --seed x", []string{"--seed"}},
		{"run x", []string{"takes no arguments but those after --"}},
		{"run --lab moon --binary " + b, []string{"namespaces or loopback"}},
		{"run --workload registre --binary " + b, []string{"no workload", "register", "capstan-jepsen list"}},
		{"run --nemesis cut-everything --binary " + b, []string{"no nemesis", "cut-halves", "capstan-jepsen list"}},
		{"run --binary ./nothing", []string{"--binary", "./nothing"}},
		{"run --schedule nothing --binary " + b, []string{"--schedule", "nothing"}},
		{"run --schedule " + b + " --binary " + b, []string{"--schedule", "event 1"}},
		{"run --plant drop-hint --binary " + b, []string{"no build with planted faults", "make build-faults"}},
		{"run --plant dropped --binary " + binary(t, "drop-hint", "skip-base"), []string{`no fault "dropped"`, "drop-hint, skip-base"}},
		{"run -o yaml --binary " + b, []string{`not "yaml"`}},
	} {
		if status := s.run(t, strings.Fields(c.args)...); status != exitCannotTell {
			t.Errorf("%s: status %d", c.args, status)
		}
		for _, want := range c.want {
			if !strings.Contains(s.stderr.String(), want) {
				t.Errorf("%s: no %q in %q", c.args, want, s.stderr.String())
			}
		}
		if s.stdout.Len() > 0 || len(s.configs) > 0 {
			t.Errorf("%s: it says %q and runs %d tests", c.args, s.stdout.String(), len(s.configs))
		}
	}
	if left, _ := os.ReadDir("."); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestHelp(t *testing.T) {
	s := newShell("")
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"check", "--help"}, {"list", "--help"}, {"--version"}} {
		if status := s.run(t, args...); status != 0 || s.stdout.Len() == 0 || s.stderr.Len() > 0 {
			t.Errorf("%v: status %d, %q", args, status, s.stderr.String())
		}
		for line := range strings.Lines(s.stdout.String()) {
			if len(strings.TrimRight(line, "\n")) > 150 {
				t.Errorf("%v: a line that no terminal takes: %s", args, line)
			}
		}
	}
}

func TestList(t *testing.T) {
	s := newShell("")
	if status := s.run(t, "list"); status != 0 {
		t.Fatalf("status %d", status)
	}
	var want []string
	for _, w := range workload.All() {
		want = append(want, w.Name)
	}
	for _, k := range nemesis.Kinds() {
		want = append(want, k.Name)
	}
	for _, g := range nemesis.Groups() {
		want = append(want, g.Name)
	}
	var got []string
	for line := range strings.Lines(s.stdout.String()) {
		if fields := strings.Fields(line); strings.HasPrefix(line, "  ") && len(fields) > 1 {
			got = append(got, fields[0])
		}
	}
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("no line for %s in %v", name, got)
		}
	}
	if status := s.run(t, "list", "-o", "json"); status != 0 || len(decode(t, s.stdout.String())["workloads"].([]any)) != len(workload.All()) {
		t.Errorf("status %d: %s", status, s.stdout.String())
	}
}

// Each verdict has its status, and the output says where to look.
func TestRunTellsTheVerdict(t *testing.T) {
	for _, c := range []struct {
		name   string
		count  int
		stale  bool
		status int
		says   []string
	}{
		{"holds", 100, false, 0, []string{"Holds: "}},
		{"violated", 100, true, 1, []string{"Violated: ", "register/0", "process 2 at n1"}},
		{"void", 3, false, 2, []string{"Could not tell: ", "succeeded"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			s := newShell(recorded(t, c.count, c.stale))
			status := s.run(t, "run", "--binary", binary(t), "--nemesis", "none", "--workload", "register", "--", "--max-clock-offset=1s")
			if status != c.status {
				t.Fatalf("status %d, %s%s", status, s.stdout.String(), s.stderr.String())
			}
			config := s.configs[0]
			dir := config.Dir
			if !strings.HasPrefix(s.stdout.String(), c.says[0]) {
				t.Errorf("it begins %.100q", s.stdout.String())
			}
			again := fmt.Sprintf("capstan-jepsen run --binary %s --nemesis none --workload register --seed %d -- --max-clock-offset=1s", config.Binary, config.Seed)
			for _, want := range append(c.says, filepath.Join(dir, reportFile), filepath.Join(dir, jepsen.HistoryFile), again) {
				if !strings.Contains(s.stdout.String(), want) {
					t.Errorf("no %q in %s", want, s.stdout.String())
				}
			}
			page, err := os.ReadFile(filepath.Join(dir, reportFile))
			must(t, err)
			for _, want := range []string{`href="history.jsonl"`, `href="n1.log"`, "--seed", "orcupine"} {
				if !strings.Contains(string(page), want) {
					t.Errorf("no %q in the report", want)
				}
			}
			if len(config.Nemeses) > 0 || !slices.Equal(config.Args, []string{"--max-clock-offset=1s"}) || config.Lab != lab.Namespaces || filepath.Dir(dir) != "store" {
				t.Errorf("config %+v", config)
			}
		})
	}
}

func TestRunOfAllWorkloads(t *testing.T) {
	t.Chdir(t.TempDir())
	s := newShell(recorded(t, 100, false))
	s.run(t, "run", "--binary", binary(t), "--workload", "all")
	if len(s.configs) != 1 || len(s.configs[0].Workloads) != len(workload.All()) {
		t.Errorf("%+v: %s", s.configs, s.stderr.String())
	}
}

func TestRunAsJSON(t *testing.T) {
	t.Chdir(t.TempDir())
	s := newShell(recorded(t, 100, true))
	must(t, os.WriteFile("schedule", nil, 0o644))
	if status := s.run(t, "run", "--binary", binary(t, "drop-hint", "skip-base"), "--schedule", "schedule", "--seed", "9", "--lab", "loopback", "--plant", "skip-base", "-o", "json"); status != 1 {
		t.Fatalf("status %d: %s", status, s.stderr.String())
	}
	got := decode(t, s.stdout.String())
	if got["verdict"] != "violated" || len(got["findings"].([]any)) == 0 || !strings.HasSuffix(got["report"].(string), reportFile) {
		t.Errorf("%v", got)
	}
	c := s.configs[0]
	if c.Seed != 9 || c.Schedule == nil || len(c.Schedule) > 0 || c.Lab != lab.Loopback || c.Planted != "skip-base" || !slices.Equal(c.Env, []string{"CAPSTAN_FAULT=skip-base"}) {
		t.Errorf("config %+v", c)
	}
}

// Two tests in a row draw two seeds.
func TestSeedsAreDrawn(t *testing.T) {
	t.Chdir(t.TempDir())
	s := newShell(recorded(t, 100, false))
	b := binary(t)
	seeds := map[uint64]bool{}
	for range 8 {
		s.run(t, "run", "--binary", b)
	}
	for _, c := range s.configs {
		seeds[c.Seed] = true
	}
	if len(seeds) < 2 {
		t.Errorf("all seeds are %v", seeds)
	}
}

func TestRunWithoutAVerdict(t *testing.T) {
	t.Chdir(t.TempDir())
	b := binary(t)
	s := newShell("")
	s.within = func(func() int) (int, error) { return 0, fmt.Errorf("%w: because", lab.ErrForbidden) }
	if status := s.run(t, "run", "--binary", b); status != exitCannotTell || !strings.Contains(s.stderr.String(), "because") || !strings.Contains(s.stderr.String(), "--lab=loopback") {
		t.Errorf("no namespaces: status %d, %s", status, s.stderr.String())
	}
	s = newShell("")
	s.test = func(_ context.Context, c jepsen.Config) (*jepsen.Outcome, error) {
		must(t, os.MkdirAll(c.Dir, 0o755))
		must(t, os.WriteFile(filepath.Join(c.Dir, "n1.log"), nil, 0o644))
		return nil, errors.New("n1 does not start")
	}
	if status := s.run(t, "run", "--binary", b); status != exitCannotTell || !strings.Contains(s.stderr.String(), "n1 does not start") || !strings.Contains(s.stderr.String(), "logs in store/") {
		t.Errorf("no cluster: status %d, %s", status, s.stderr.String())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	s.test = func(ctx context.Context, _ jepsen.Config) (*jepsen.Outcome, error) {
		cancel(errors.New("interrupt"))
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.stderr.Reset()
	if status := run(ctx, s.machine, []string{"run", "--binary", b}, nil, &s.stdout, &s.stderr); status != exitCannotTell || !strings.Contains(s.stderr.String(), "interrupted") {
		t.Errorf("interrupted: status %d, %s", status, s.stderr.String())
	}
}

// A history is judged as it was, wherever it lies, and the report finds what lies
// beside it.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, c := range map[string]struct {
		count  int
		stale  bool
		status int
	}{"holds": {100, false, 0}, "violated": {100, true, 1}, "void": {3, false, 2}} {
		must(t, os.MkdirAll("store/"+name, 0o755))
		file := filepath.Join("store", name, jepsen.HistoryFile)
		text := recorded(t, c.count, c.stale)
		must(t, os.WriteFile(file, []byte(text), 0o644))
		s := newShell("")
		s.stdin = text
		var said []string
		for _, from := range []string{file, "store/" + name, "-"} {
			if status := s.run(t, "check", from, "--report", "again.html"); status != c.status {
				t.Errorf("%s from %s: status %d, %s", name, from, status, s.stderr.String())
			}
			said = append(said, s.stdout.String())
			page, err := os.ReadFile("again.html")
			must(t, err)
			if linked := strings.Contains(string(page), `href="store/`+name+`/history.jsonl"`); linked != (from != "-") {
				t.Errorf("%s from %s: linked %v", name, from, linked)
			}
		}
		if said[0] != said[1] || said[1] != said[2] || said[0] == "" {
			t.Errorf("%s is told in different ways: %q", name, said)
		}
		s.run(t, "check", file, "-o", "json")
		first := s.stdout.String()
		if s.run(t, "check", file, "-o", "json"); s.stdout.String() != first || decode(t, first)["verdict"] == "" {
			t.Errorf("%s: other bytes: %s and %s", name, first, s.stdout.String())
		}
	}
}

// The first word is in colour for those who see it, and the text is the same.
func TestVerdictInColour(t *testing.T) {
	r := &check.Result{Verdict: check.Violated, Sentence: "Violated: register: a: no"}
	plain, coloured := verdict(r, false), verdict(r, true)
	if plain != "Violated: register: a: no\n" || coloured != "\x1b[1;31mViolated\x1b[0m: register: a: no\n" {
		t.Errorf("%q, %q", plain, coloured)
	}
	if colours(&strings.Builder{}) {
		t.Error("colours where there is no terminal")
	}
}

// The files that a history names are looked for in its directory only.
func TestLinksStayInTheDirectory(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "secret.log"), nil, 0o644))
	must(t, os.MkdirAll(filepath.Join(dir, "run"), 0o755))
	files, err := runFiles(filepath.Join(dir, "run"), filepath.Join(dir, "run"), &history.History{Run: history.Run{Nodes: []string{"../secret"}}})
	must(t, err)
	if len(files) > 0 {
		t.Errorf("links %v", files)
	}
}

func TestProgressLines(t *testing.T) {
	now := jepsen.Progress{Elapsed: 23e9, Limit: 60e9, Phase: "running", Counts: history.Counts{OK: 7, Fail: 2, Info: 1}, Faults: []string{"cut-halves", "pause of n1"}}
	if got, want := progressLine(now), " 23s of 1m0s  running  ok 7  fail 2  info 1  | cut-halves; pause of n1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := progressLine(jepsen.Progress{Phase: "starting"}); got != "starting" {
		t.Errorf("%q", got)
	}
	if got := fit("añosluz", 4); got != "año…" {
		t.Errorf("%q", got)
	}
	var out strings.Builder
	p := newProgress(&out)
	for range 100 {
		p.show(now)
	}
	now.Phase = "settling"
	p.show(now)
	p.clear()
	if got := strings.Count(out.String(), "\n"); got != 2 || strings.Contains(out.String(), "\r") {
		t.Errorf("%d lines where two phases were told: %q", got, out.String())
	}
	out.Reset()
	p = &progress{w: &out, columns: 20}
	p.show(now)
	p.clear()
	if want := "\r\x1b[K 23s of 1m0s  sett…\r\x1b[K"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
