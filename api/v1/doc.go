// Package v1 is Skep's own API beside Kubernetes': the paths below /skep/v1, of the API server and of each node's agent, and what
// they carry, as JSON. Both ends of each path use these types. An agent's paths are asked for through the API server, as
// /api/v1/nodes/NODE/proxy/skep/v1/...
//
// It has no code but what turns a value into text, and stands on nothing of ours.
package v1

// Paths of the API server.
const (
	// PathCA answers the authority's certificate in PEM, to everybody.
	PathCA = "/skep/v1/ca"
	// PathJoin takes a JoinRequest, with a join token or the node's own certificate, and answers a JoinResponse.
	PathJoin = "/skep/v1/join"
	// PathNetwork answers a Network, to nodes and administrators.
	PathNetwork = "/skep/v1/network"
	// PathCertificates answers a CertificateList, to administrators.
	PathCertificates = "/skep/v1/certificates"
	// PathEtcd is above "status" (GET: an EtcdReport), "defragment" (POST: the same, afterwards) and "snapshot" (GET: the database,
	// ended by its SHA-256 sum), for administrators.
	PathEtcd = "/skep/v1/etcd/"
)

// Paths of an agent.
const (
	// PathServices answers a Report.
	PathServices = "/skep/v1/services"
	// PathDataplane answers what the service maps hold, in a form that is nobody's but theirs.
	PathDataplane = "/skep/v1/dataplane"
	// PathVerify answers a Verification. The agent asks the API server anew for it.
	PathVerify = "/skep/v1/dataplane/verify"
	// PathEvents answers a line of JSON, an Event, for each connection that came to nothing lately; with ?follow=true it goes on.
	PathEvents = "/skep/v1/events"
)
