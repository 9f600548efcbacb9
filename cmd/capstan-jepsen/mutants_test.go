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
	"time"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/lab"
	"github.com/capstan-kv/capstan/jepsen/mutants"
)

// The status is what became of the worst mutant, and every one has a line.
func TestMutants(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.MkdirAll("run", 0o755))
	must(t, os.WriteFile(filepath.Join("run", jepsen.HistoryFile), []byte(recorded(t, 100, true)), 0o644))
	must(t, os.WriteFile(filepath.Join("run", jepsen.ResultFile), []byte(`{"verdict":"violated","sentence":"Violated: as it was judged."}`), 0o644))
	good := mutants.Row{Dir: "run", Fault: "skip-base", Found: true, After: 7 * time.Second, Workload: "mixed", Checker: "precedence", Why: "it lost", Clean: true}
	missed := mutants.Row{Fault: "drop-hint", Runs: 4, After: 90 * time.Second, Clean: true}
	unclean := good
	unclean.Clean, unclean.Unclean = false, "Violated: something"
	broken := mutants.Row{Fault: "drop-hint", Failed: "no cluster", Clean: true}
	b := binary(t)
	for _, c := range []struct {
		name   string
		rows   []mutants.Row
		status int
		says   []string
	}{
		{"all", []mutants.Row{good}, 0, []string{"found after 7 s", "mixed: precedence", "clean", "1 of 1 found"}},
		{"missed", []mutants.Row{good, missed}, 1, []string{"not found in 4 runs", "1 of 2 found"}},
		{"unclean", []mutants.Row{unclean}, 1, []string{"Violated: something", "NOT CLEAN", "0 of 1 found"}},
		{"broken", []mutants.Row{broken, good}, 2, []string{"could not tell", "no cluster"}},
		{"broken and missed", []mutants.Row{broken, missed}, 1, []string{"0 of 2 found"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShell("")
			var config mutants.Config
			s.hunt = func(_ context.Context, given mutants.Config) ([]mutants.Row, error) {
				config = given
				given.Progress(mutants.Progress{Fault: "skip-base", Number: 1, Of: 2, Seed: 3, Planted: true, Run: jepsen.Progress{Phase: "starting"}})
				for _, r := range c.rows {
					given.Told(r)
				}
				return c.rows, nil
			}
			if status := s.run(t, "mutants", "--binary", b, "--only", "skip-base", "--seeds", "2"); status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			for _, want := range c.says {
				if !strings.Contains(s.stdout.String(), want) {
					t.Errorf("no %q in %s", want, s.stdout.String())
				}
			}
			page, err := os.ReadFile(filepath.Join("run", reportFile))
			if found := strings.Contains(string(page), "As it was judged."); c.rows[0].Found && !found {
				t.Errorf("no report: %v", err)
			}
			if want := "1 of 2  skip-base, seed 3, planted: starting\n"; s.stderr.String() != want {
				t.Errorf("%q, want %q", s.stderr.String(), want)
			}
			if !slices.Equal(config.Only, []string{"skip-base"}) || config.Seeds != 2 || config.Binary != b || !strings.HasPrefix(config.Dir, "store/mutants-") {
				t.Errorf("config %+v", config)
			}
			if status := s.run(t, "mutants", "--binary", b, "-o", "json"); status != c.status || strings.Count(s.stdout.String(), "\n") != len(c.rows) {
				t.Errorf("status %d: %s", status, s.stdout.String())
			}
			for line := range strings.Lines(s.stdout.String()) {
				if decode(t, line)["fault"] == "" {
					t.Errorf("no fault in %s", line)
				}
			}
		})
	}
}

func TestMutantsThatCannotBeRun(t *testing.T) {
	t.Chdir(t.TempDir())
	all := binary(t)
	s := newShell("")
	s.hunt = func(context.Context, mutants.Config) ([]mutants.Row, error) { return nil, errors.New("no mutant") }
	for args, want := range map[string]string{
		"--binary " + all:  "no mutant",
		"--only x -o yaml": `not "yaml"`,
	} {
		if status := s.run(t, append([]string{"mutants"}, strings.Fields(args)...)...); status != exitCannotTell || !strings.Contains(s.stderr.String(), want) {
			t.Errorf("%s: status %d, %s", args, status, s.stderr.String())
		}
	}
	t.Setenv("PATH", "")
	if status := s.run(t, "mutants"); status != exitCannotTell || !strings.Contains(s.stderr.String(), "make build-faults") {
		t.Errorf("without a build: status %d, %s", status, s.stderr.String())
	}
	s.within = func(func() int) (int, error) { return 0, fmt.Errorf("%w: because", lab.ErrForbidden) }
	if status := s.run(t, "mutants", "--binary", all); status != exitCannotTell || !strings.Contains(s.stderr.String(), "because") {
		t.Errorf("no namespaces: status %d, %s", status, s.stderr.String())
	}
}

func TestMutantsAreListed(t *testing.T) {
	s := newShell("")
	if status := s.run(t, "mutants", "--list"); status != 0 {
		t.Fatalf("status %d", status)
	}
	for _, m := range mutants.All() {
		if !strings.Contains(s.stdout.String(), m.Fault+": "+m.What) {
			t.Errorf("%s is not listed", m.Fault)
		}
	}
	if status := s.run(t, "mutants", "--list", "-o", "json"); status != 0 || !strings.HasPrefix(s.stdout.String(), `[{"fault":`) {
		t.Errorf("status %d, %s", status, s.stdout.String())
	}
}
