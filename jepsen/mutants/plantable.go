package mutants

import (
	"context"
	"fmt"
	"slices"

	"github.com/capstan-kv/capstan/jepsen"
)

// plantable checks that a program can do wrong what the mutants are about, as it
// says itself.
func plantable(ctx context.Context, binary string, mutants []Mutant) error {
	program, err := jepsen.AskProgram(ctx, binary)
	if err != nil {
		return err
	}
	return canPlant(binary, program, mutants)
}

// canPlant does it with what the program said.
func canPlant(binary string, program jepsen.Program, mutants []Mutant) error {
	if !program.Faults {
		return fmt.Errorf("%s is no fault build (make build-faults makes one): no fault can be planted in it", binary)
	}
	for _, m := range mutants {
		if !slices.Contains(program.Plantable, m.Fault) {
			return fmt.Errorf("%s cannot plant %s: it knows %q", binary, m.Fault, program.Plantable)
		}
	}
	return nil
}
