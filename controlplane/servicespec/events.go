package servicespec

// Reasons of the events that nodes write about a Service, for what does not work on that node alone. They may write no others.
const (
	// ReasonNotInstalled says that the node could not install all of the Service: its maps are full.
	ReasonNotInstalled = "NotInstalled"
	// ReasonHealthPort says that the node cannot serve the Service's health-check port.
	ReasonHealthPort = "HealthCheckFailure"
)

// ReasonInstalled is of an event about a pod: a host port leads to it that was left to a program of the node.
const ReasonInstalled = "Installed"
