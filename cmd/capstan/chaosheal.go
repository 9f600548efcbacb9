package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (p *program) chaosHealCommand() *cobra.Command {
	var f chaosFlags
	cmd := &cobra.Command{
		Use:   "heal",
		Short: "end every cut",
		Long: `Ends every cut and waits until the eventual writes of all sides are committed or
have lost. Exit status 4 if that takes too long.`,
		Example: `  capstan chaos heal`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.heal(cmd.Context(), &f)
		},
	}
	f.add(p, cmd)
	return cmd
}

// healReport is what heal prints as JSON.
type healReport struct {
	WasCut     bool          `json:"was_cut"`
	CutSeconds *float64      `json:"cut_seconds"` // null: not known
	Seconds    float64       `json:"seconds"`
	Tentative  []nodeBacklog `json:"tentative"` // what is left
	Silent     []string      `json:"silent"`    // told, but they do not answer
	Unreached  []string      `json:"unreached"` // down, and not told
}

type nodeBacklog struct {
	Node   string `json:"node"`
	Writes uint64 `json:"writes"`
}

func (p *program) heal(ctx context.Context, f *chaosFlags) error {
	return f.in(ctx, func(ctx context.Context, l *lab) error {
		cuts, told, err := l.cuts(ctx)
		if err != nil {
			return err
		}
		r := healReport{Unreached: l.without(told)}
		for _, c := range cuts {
			if len(c.From) == 0 {
				continue
			}
			r.WasCut = true
			if c.Seconds != nil && (r.CutSeconds == nil || *c.Seconds > *r.CutSeconds) {
				r.CutSeconds = c.Seconds
			}
		}
		if err := l.tell(ctx, told, nil); err != nil {
			return err
		}
		began := time.Now()
		silent, merged := l.until(ctx, f.wait, told, func(seen views) bool {
			r.Tentative = seen.backlog()
			return len(r.Tentative) == 0
		})
		r.Seconds, r.Silent = time.Since(began).Seconds(), silent
		if p.json {
			err = p.printObject(r)
		} else {
			err = p.write([]byte(r.text(merged)))
		}
		if err != nil {
			return err
		}
		p.noteUnreached(r.Unreached)
		if !merged {
			return &exitError{status: exitUnknown}
		}
		return nil
	})
}

func (r healReport) text(merged bool) string {
	head := "healed"
	switch {
	case !r.WasCut:
		head = "nothing was cut"
	case r.CutSeconds != nil:
		head = "healed after " + span(*r.CutSeconds)
	}
	took := span(r.Seconds)
	if merged {
		return fmt.Sprintf("%s   no tentative writes left after %s\n", head, took)
	}
	var left []string
	for _, b := range r.Tentative {
		left = append(left, fmt.Sprintf("%s holds %s", b.Node, count(int(b.Writes), "tentative write")))
	}
	for _, node := range r.Silent {
		left = append(left, node+" does not answer")
	}
	return fmt.Sprintf("%s   not merged after %s: %s\n", head, took, strings.Join(left, ", "))
}
