package check

import "github.com/capstan-kv/capstan/jepsen/contract"

// The register workload: linearizable reads, writes and conditional writes of
// values that nobody writes twice.
var (
	registerLinearizable = Checker{
		Workload: "register", Name: "linearizable",
		What:  "each key is one register: porcupine finds an order of its operations that explains all answers",
		Check: shrunk(byContract(mixing, linearizable)),
	}
	registerAnswers = Checker{
		Workload: "register", Name: "answers",
		What:  "what is read was written, by a write that had begun and was not refused; each write has one version",
		Check: byContract(unbounded(contract.CheckAnswers), answeredRead),
	}
	registerVersions = Checker{
		Workload: "register", Name: "versions",
		What:  "no read's version is older than one that was acknowledged before it began",
		Check: byContract(unbounded(contract.CheckBounded), answeredRead),
	}
)
