// Package v1 is Skep's own API beside Kubernetes': the paths below /skep/v1, of the API server and of each node's agent, and what
// they carry, as JSON. Both ends of each path use these types. An agent's paths are reached through the API server, as
// /api/v1/nodes/NODE/proxy/skep/v1/...
//
// Its only code turns values into text, and it imports nothing of ours.
package v1

// Paths of the API server.
const (
	// PathCA returns the authority's certificate in PEM, to everybody.
	PathCA = "/skep/v1/ca"
	// PathJoin accepts a JoinRequest, with a join token or the node's own certificate, and returns a JoinResponse.
	PathJoin = "/skep/v1/join"
	// PathNetwork returns a Network, to nodes and administrators.
	PathNetwork = "/skep/v1/network"
	// PathPodRanges returns (GET) a PodRangeList and accepts (POST) a PodRange, of which only the CIDR counts, that nodes get parts of from
	// then on, and returns the list; for administrators.
	PathPodRanges = "/skep/v1/network/podranges"
	// PathServers accepts (POST) a ServerJoinRequest with a token for servers and returns a ServerJoinResponse; for administrators it returns
	// (GET) a ServerList, and below it, by name, a server can be removed (DELETE).
	PathServers = "/skep/v1/servers"
	// PathApplied returns an Applied, to nodes and administrators, as soon as no node is pending, or after ?wait= (a duration, at most a
	// minute); ?revision= is the revision that it is about.
	PathApplied = "/skep/v1/endpoints/applied"
	// PathCertificates returns a CertificateList, to administrators.
	PathCertificates = "/skep/v1/certificates"
	// PathRebalance returns (GET) a RebalancePlan, to administrators; its query is that of RebalanceQuery.
	PathRebalance = "/skep/v1/rebalance"
	// PathEtcd is the prefix of "status" (GET: an EtcdReport), "defragment" (POST: an EtcdReport, afterwards) and "snapshot" (GET: the
	// database, followed by its SHA-256 sum), for administrators.
	PathEtcd = "/skep/v1/etcd/"
)

// Paths of an agent.
const (
	// PathServices returns a Report.
	PathServices = "/skep/v1/services"
	// PathDataplane returns the content of the service maps, in a form of their own.
	PathDataplane = "/skep/v1/dataplane"
	// PathVerify returns a Verification, for which the agent reads from the API server again.
	PathVerify = "/skep/v1/dataplane/verify"
	// PathEvents returns a line of JSON, an Event, for each recent connection that failed; with ?follow=true it goes on.
	PathEvents = "/skep/v1/events"
)
