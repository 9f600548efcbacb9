package check

import "github.com/capstan-kv/capstan/jepsen/contract"

// The mixed workload: operations of all levels on the same keys. These are the
// checkers of package contract, and convergence.
var (
	mixedMixing = Checker{
		Workload: "mixed", Name: "mixing",
		What:  "linearizable operations, and eventual writes as operations that take effect at most once, have an order that explains all answers",
		Check: shrunk(byContract(mixing, linearizable)),
	}
	mixedPrecedence = Checker{
		Workload: "mixed", Name: "precedence",
		What:  "no eventual write wins over a linearizable one that its node had not heard of; of eventual ones the higher timestamp wins",
		Check: byContract(unbounded(contract.CheckPrecedence), answeredWrite),
	}
	mixedAnswers = Checker{
		Workload: "mixed", Name: "answers",
		What:  "what is read was written, by a write that had begun and was not refused; each write is committed once",
		Check: byContract(unbounded(contract.CheckAnswers), answeredRead),
	}
	mixedNodes = Checker{
		Workload: "mixed", Name: "own writes",
		What:  "an eventual read sees what the node that answers it has taken itself",
		Check: byContract(unbounded(contract.CheckNodes), eventualRead),
	}
	mixedVersions = Checker{
		Workload: "mixed", Name: "versions",
		What:  "no linearizable or bounded read's version is older than it may be",
		Check: byContract(unbounded(contract.CheckBounded), answeredRead),
	}
	mixedFates = Checker{
		Workload: "mixed", Name: "fates",
		What:  "each acknowledged eventual write is committed, or superseded and on the list of conflicts",
		Check: byContract(unbounded(contract.CheckFates), received),
	}
	mixedSuperseded = Checker{
		Workload: "mixed", Name: "superseded",
		What:  "each eventual write that lost had not heard of a linearizable one, or is older, and its receipt names the winner that the list of conflicts names",
		Check: byContract(unbounded(contract.CheckSuperseded), received),
	}
	mixedConverged = Checker{
		Workload: "mixed", Name: "converged",
		What:  "in the end all nodes show the same, and it is what a linearizable read gives",
		Check: converged,
	}
)
