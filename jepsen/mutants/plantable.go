package mutants

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
)

// plantable checks that a program can do wrong what the mutants are about, as it
// says itself.
func plantable(ctx context.Context, binary string, mutants []Mutant) error {
	path, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, "version", "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("%s version: %w", path, err)
	}
	return canPlant(path, out, mutants)
}

// canPlant does it with what the program said.
func canPlant(path string, said []byte, mutants []Mutant) error {
	var version struct {
		Faults    bool
		Plantable []string
	}
	if err := json.Unmarshal(said, &version); err != nil {
		return fmt.Errorf("%s version: %w", path, err)
	}
	if !version.Faults {
		return fmt.Errorf("%s is no fault build (make build-faults makes one): no fault can be planted in it", path)
	}
	for _, m := range mutants {
		if !slices.Contains(version.Plantable, m.Fault) {
			return fmt.Errorf("%s cannot plant %s: it knows %q", path, m.Fault, version.Plantable)
		}
	}
	return nil
}
