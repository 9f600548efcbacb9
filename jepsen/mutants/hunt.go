package mutants

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/check"
)

// Config says which mutants are to be run, and of what.
type Config struct {
	// Binary is a fault build of capstan.
	Binary string
	// Dir takes the files of all runs, a directory each. It is made if it is
	// missing.
	Dir string
	// Only these, by the names of their faults; none: all.
	Only []string
	// Seeds to try for each at most; 0: as many as there are.
	Seeds int
	// Harness is the version of the caller's program, Command how it was called:
	// for the records.
	Harness string
	Command []string
	// Progress, if set, is told several times a second how a run gets on; Told of
	// each row when it is there. Both are called from one goroutine at a time.
	Progress func(Progress)
	Told     func(Row)
}

// Progress is a look at a hunt.
type Progress struct {
	Fault string
	// Number of Of mutants, from 1.
	Number, Of int
	Seed       uint64
	// Planted: it is in this run; else it is one of those that have to hold.
	Planted bool
	Run     jepsen.Progress
}

// Run hunts mutants, one after the other, and gives a row for each. It must be
// called within lab.Within. An error is what is wrong with the Config, or that of
// ctx, which ends it; the rows so far come with it. A run that comes to no judgement
// is no error: its row says so.
func Run(ctx context.Context, c Config) ([]Row, error) {
	return hunter{plantable, jepsen.Run}.hunt(ctx, c)
}

const (
	// settling is how long a run with a fault may take to get ready and to settle:
	// more than it takes where it does at all.
	settling = 15 * time.Second
	// ending is how long it may take to start and to end, beside the time in which
	// clients work.
	ending = 90 * time.Second
)

// hunter has what tests put something in place of.
type hunter struct {
	plantable func(ctx context.Context, binary string, mutants []Mutant) error
	run       func(context.Context, jepsen.Config) (*jepsen.Outcome, error)
}

func (h hunter) hunt(ctx context.Context, c Config) (rows []Row, err error) {
	wanted, err := find(c.Only)
	if err != nil {
		return nil, err
	}
	if err := h.plantable(ctx, c.Binary, wanted); err != nil {
		return nil, err
	}
	for i, m := range wanted {
		row := h.one(ctx, c, m, Progress{Fault: m.Fault, Number: i + 1, Of: len(wanted)})
		if err := ctx.Err(); err != nil {
			return rows, err
		}
		if rows = append(rows, row); c.Told != nil {
			c.Told(row)
		}
	}
	return rows, nil
}

// one hunts a mutant: seed after seed until it is found, then without it.
func (h hunter) one(ctx context.Context, c Config, m Mutant, p Progress) Row {
	row := Row{Fault: m.Fault, What: m.What}
	began := time.Now()
	try := seeds
	if c.Seeds > 0 {
		try = try[:min(c.Seeds, len(try))]
	}
	var failed error
	var tried []uint64
	for _, seed := range try {
		tried = append(tried, seed)
		row.Seed = seed
		row.Runs++
		result, dir, err := h.try(ctx, c, m, p, seed, true)
		row.Dir, row.After = dir, time.Since(began)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("seed %d: %w", seed, err))
		}
		if ctx.Err() != nil {
			return row
		}
		if result != nil && result.Verdict == check.Violated {
			row.Found = true
			row.by(result)
			break
		}
	}
	if failed != nil && !row.Found {
		row.Failed = failed.Error()
	}
	row.Clean = true
	for _, seed := range tried {
		result, _, err := h.try(ctx, c, m, p, seed, false)
		switch {
		case ctx.Err() != nil:
			return row
		case err != nil:
			row.Clean, row.Unclean = false, err.Error()
		case result.Verdict != check.Holds:
			row.Clean, row.Unclean = false, result.Sentence
		}
	}
	return row
}

// by takes up what was found.
func (r *Row) by(result *check.Result) {
	i := slices.IndexFunc(result.Findings, func(f check.Finding) bool { return !f.Undecided })
	if i < 0 {
		r.Why = result.Sentence
		return
	}
	f := result.Findings[i]
	r.Workload, r.Checker, r.Why = f.Workload, f.Checker, f.Why
	for _, o := range f.Ops {
		r.Shown = max(r.Shown, o.Return, o.Invoke)
	}
}

// try is one run.
func (h hunter) try(ctx context.Context, c Config, m Mutant, p Progress, seed uint64, planted bool) (*check.Result, string, error) {
	what := "clean"
	if planted {
		what = "planted"
	}
	run := m.config(seed, planted)
	run.Binary, run.Harness, run.Command = c.Binary, c.Harness, c.Command
	run.Dir = filepath.Join(c.Dir, m.Fault, fmt.Sprintf("%s-%d", what, seed))
	if c.Progress != nil {
		p.Seed, p.Planted = seed, planted
		run.Progress = func(of jepsen.Progress) {
			p.Run = of
			c.Progress(p)
		}
	}
	if planted {
		// A cluster that has lost its logs may never settle.
		run.Patience = settling
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, run.TimeLimit+ending)
		defer cancel()
	}
	outcome, err := h.run(ctx, run)
	if err != nil {
		return nil, run.Dir, err
	}
	return outcome.Result, run.Dir, nil
}
