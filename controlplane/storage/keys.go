package storage

// Root is the prefix of every key that holds an API object.
const Root = "/registry/"

// Prefix is the prefix of the keys of a resource's objects, with a slash at its end. Path is where kube-apiserver stores them: the
// resource's name for most, "minions" for nodes.
func Prefix(path string) string { return Root + path + "/" }

// Key is the key of one object. Without a name it is the prefix of a namespace.
func Key(path, namespace, name string) string {
	if namespace == "" {
		return Prefix(path) + name
	}
	return Prefix(path) + namespace + "/" + name
}
