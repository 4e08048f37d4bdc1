// Package cgroup owns the cgroups above containers: below the agent's own, kubepods with the limits of all pods together,
// burstable and besteffort for the two lower classes of service, and a folder per pod, named as kubelet and cAdvisor name
// them. It works with cgroup v1, v2, and hosts that have both.
//
// Processes are only ever in the containers' folders below, which runc makes and removes.
package cgroup
