package jepsen

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Program is what a capstan program says of itself.
type Program struct {
	Version, Revision string
	// Faults: it is a fault build, whose clock and disk can be bent. Plantable names
	// what can be planted in it.
	Faults    bool
	Plantable []string
}

// AskProgram runs a program for that. The error names its path.
func AskProgram(ctx context.Context, binary string) (Program, error) {
	path, err := filepath.Abs(binary) // a name without a slash is not one in PATH
	if err != nil {
		return Program{}, err
	}
	var said Program
	out, err := exec.CommandContext(ctx, path, "version", "-o", "json").Output()
	if err == nil {
		err = json.Unmarshal(out, &said)
	}
	if err != nil {
		return Program{}, fmt.Errorf("%s version: %w", path, err)
	}
	return said, nil
}

// String is the version, for the record.
func (p Program) String() string { return strings.TrimSpace(p.Version + " " + p.Revision) }
