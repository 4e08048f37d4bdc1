// Package hurts has a test for each way in which service proxies are known to have hurt their users, in files of their own.
package hurts
