//go:build !capstan_faults

package main

import "github.com/capstan-kv/capstan/node"

// faultBuild describes a build that can do things wrong; this one can not.
var faultBuild *faults

// bent leaves the machine as it is: see bent_on.go.
func bent(config node.Config) (node.Config, func() error, error) {
	return config, func() error { return nil }, nil
}
