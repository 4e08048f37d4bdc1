package scheduler

const reasonPorts = "node(s) didn't have free ports for the requested pod ports"

// portFilter keeps pods from hosts where another pod has one of their host ports.
type portFilter struct{}

type portCheck []hostPort

func (portFilter) check(_ *cluster, req *request) check {
	if len(req.hostPorts) == 0 {
		return nil
	}
	return portCheck(req.hostPorts)
}

func (k portCheck) fits(h *host) bool {
	for _, want := range k {
		for have := range h.ports {
			if have.port == want.port && have.protocol == want.protocol &&
				(have.ip == want.ip || have.ip == "0.0.0.0" || want.ip == "0.0.0.0") {
				return false
			}
		}
	}
	return true
}

func (portCheck) explain(*host) ([]string, bool) { return []string{reasonPorts}, true }
