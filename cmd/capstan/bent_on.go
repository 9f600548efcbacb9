//go:build capstan_faults

package main

import (
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/capstan-kv/capstan/node"
	"github.com/capstan-kv/capstan/storage/fault"
	"github.com/capstan-kv/capstan/storage/fault/bend"
)

// Variables of a build with planted faults; no other build looks at them.
const (
	faultVariable   = "CAPSTAN_FAULT"         // the fault to plant
	controlVariable = "CAPSTAN_FAULT_CONTROL" // the path of the file that bends disk and clock
)

var faultBuild = &faults{Plantable: plantable()}

func plantable() []string {
	var names []string
	for _, f := range fault.All {
		names = append(names, string(f))
	}
	return names
}

// bent gives the node the disk and the clock of the control file, if the
// environment names one. A fault that does not exist is refused: a test would
// wait for it in vain.
func bent(config node.Config) (node.Config, func() error, error) {
	nothing := func() error { return nil }
	planted, path := os.Getenv(faultVariable), os.Getenv(controlVariable)
	config.Logger.Warn("this build does things wrong on purpose; never keep data with it", "planted", planted, "control", path)
	if planted != "" && !slices.Contains(faultBuild.Plantable, planted) {
		return config, nothing, usageErrorf("%s=%q is no fault of this build", faultVariable, planted)
	}
	if path == "" {
		return config, nothing, nil
	}
	b, err := bend.Open(bend.Config{Path: path, FS: config.FS, Now: config.Now, Events: func(e bend.Event) { tellBent(config.Logger, e) }})
	if err != nil {
		return config, nothing, fmt.Errorf("%s: %w", controlVariable, err)
	}
	config.FS, config.Now = b.FS(), b.Now
	return config, b.Close, nil
}

func tellBent(logger *slog.Logger, e bend.Event) {
	switch e := e.(type) {
	case bend.Obeyed:
		logger.Warn("disk and clock are bent", "control", fmt.Sprintf("%+v", e.Control))
	case bend.Ignored:
		logger.Error("DISK AND CLOCK ARE NOT BENT AS ASKED", "err", e.Err)
	}
}
